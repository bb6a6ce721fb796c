"""A bridge-like program on mautrix-python against our application-service API."""
import json
import select
import signal
import subprocess
import sys

import pytest

from client import HERE
from node import free_port

REGISTRATION = """
id: echo
url: http://127.0.0.1:{port}
as_token: as_secret_token
hs_token: hs_secret_token
sender_localpart: echobot
rate_limited: false
de.sorunome.msc2409.push_ephemeral: true
org.matrix.msc3202: true
namespaces:
  users: [{{regex: '@echo_.*', exclusive: true}}]
  aliases: [{{regex: '#echo_.*', exclusive: true}}]
  rooms: []
"""


class Bridge:
    """The test's side of bridge.py."""

    def __init__(self, url, name, port):
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "bridge.py"), url, name, str(port), "as_secret_token", "hs_secret_token"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def ask(self, cmd, limit=60, **arguments):
        self.process.stdin.write(json.dumps({"cmd": cmd, **arguments}) + "\n")
        self.process.stdin.flush()
        assert select.select([self.process.stdout], [], [], limit)[0], f"no answer to {cmd} within {limit} s"
        line = self.process.stdout.readline()
        assert line, f"the bridge ended with {self.process.wait(5)}"
        answer = json.loads(line)
        assert "error" not in answer, answer
        return answer["ok"]

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def bridged(tmp_path, nodes):
    """A node, and a bridge that it lets in."""
    node, port = nodes("a"), free_port()
    file = tmp_path / "echo.yaml"
    file.write_text(REGISTRATION.format(port=port))
    node.mangrove("init")
    flags = ("--appservices", str(file), "--no-rate-limits")
    node.start(*flags)
    bridge = Bridge(node.url, node.mangrove("server-name"), port)
    yield node, bridge, flags
    bridge.close()


def test_a_bridge_echoes_what_is_said(bridged):
    node, bridge, flags = bridged
    bot = bridge.ask("start")["bot"]
    assert bridge.ask("ping") is True
    alice = node.client().register("alice")
    room = alice.create("12", name="bridged", invite=[bot])
    alice.wait_members(room, bot)
    alice.send(room, "hello there")
    alice.wait(room, "echo: hello there", seconds=30)
    assert [event["sender"] for event in bridge.ask("wait", kind="m.room.message", body="hello there")] == [alice.user]
    profile = alice.raw("GET", f"/_matrix/client/v3/profile/@echo_{alice.user[1:]}")["body"]
    assert profile["displayname"] == "alice (echo)"
    mxc = bridge.ask("upload", text="a file of the other side")
    assert mxc.startswith("mxc://")
    assert bridge.ask("typing", room=room, name="alice") is True
    # Its names are its own.
    taken = alice.raw("POST", "/_matrix/client/v3/register", {
        "username": "echo_eve", "password": "correct horse battery", "auth": {"type": "m.login.dummy"}})["body"]
    assert taken["errcode"] == "M_EXCLUSIVE"


def test_what_was_said_while_the_bridge_slept_comes_once(bridged):
    node, bridge, flags = bridged
    bot = bridge.ask("start")["bot"]
    alice = node.client().register("alice")
    room = alice.create("12", name="bridged", invite=[bot])
    alice.wait_members(room, bot)
    alice.send(room, "first")
    alice.wait(room, "echo: first", seconds=30)
    # The bridge is stopped in its tracks: transactions to it hang.
    bridge.process.send_signal(signal.SIGSTOP)
    alice.send(room, "while it sleeps")
    bridge.process.send_signal(signal.SIGCONT)
    alice.wait(room, "echo: while it sleeps", seconds=60)
    alice.send(room, "last")
    alice.wait(room, "echo: last", seconds=60)
    for body in ("first", "while it sleeps", "last"):
        seen = [event["event_id"] for event in bridge.ask("wait", kind="m.room.message", body=body)]
        assert len(seen) == 1, f"{body}: told once"
