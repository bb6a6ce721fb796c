"""The command line as its user meets it: names, accounts, ctl, errors, an orderly end, and going on afterwards."""
import json
import re
import signal
import socket
import stat
import subprocess
import time

import pytest

from device import BINARY

WORDS = "correct horse battery staple"


def fails(*arguments, **more):
    """A command that must be refused: exit code and the one line that it says."""
    done = subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=20,
                          stdin=subprocess.DEVNULL, **more)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return done.returncode, lines[0]


def test_init_is_idempotent_and_keys_are_private(tmp_path):
    data = tmp_path / "n"
    read = lambda *words: subprocess.run([BINARY, *words, "--data", str(data)], capture_output=True, text=True, check=True).stdout
    read("init")
    first = [read("key"), read("address"), read("server-name")]
    read("init")
    assert [read("key"), read("address"), read("server-name")] == first
    assert re.fullmatch(r"[0-9a-f]{64}\n", first[0])
    assert re.fullmatch(r"fd[0-9a-f:]+\n", first[1])
    assert re.fullmatch(r"k[a-z2-7]{51}[aq]\.mesh\.alt\n", first[2])
    for file in data.rglob("*"):
        if file.is_file():
            assert not file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO), f"{file} can be read by others"


def test_the_name_is_chosen_once(tmp_path):
    data = tmp_path / "n"
    subprocess.run([BINARY, "init", "--data", data, "--zone", "mx.example.org"], check=True, capture_output=True)
    name = subprocess.run([BINARY, "server-name", "--data", data], capture_output=True, text=True, check=True).stdout.strip()
    assert name.endswith(".mx.example.org")
    for change in (["--zone", "other.example"], ["--server-name", "example.org"]):
        code, said = fails("init", "--data", data, *change)
        assert code == 2 and name in said
    subprocess.run([BINARY, "init", "--data", data, "--zone", "mx.example.org"], check=True, capture_output=True)
    own = tmp_path / "own"
    subprocess.run([BINARY, "init", "--data", own, "--server-name", "example.org"], check=True, capture_output=True)
    assert subprocess.run([BINARY, "server-name", "--data", own], capture_output=True, text=True).stdout == "example.org\n"


def test_what_is_wrong_is_said_in_one_line(tmp_path, nodes):
    data = tmp_path / "n"
    bad = tmp_path / "bad.toml"
    bad.write_text("htttp = \"127.0.0.1:0\"\n")
    used = socket.create_server(("127.0.0.1", 0))
    taken = "127.0.0.1:%d" % used.getsockname()[1]
    (tmp_path / "file").write_text("")
    cases = [
        (["--config", bad], "htttp"),
        (["--config", tmp_path / "none.toml"], "none.toml"),
        (["--listen", "ftp://127.0.0.1:1"], "tcp://"),
        (["--peer", "tcp://127.0.0.1:99999"], "port"),
        (["--http", "nowhere"], "--http"),
        (["--http", taken], "in use"),
        (["--listen", f"tcp://{taken}"], "in use"),
    ]
    for flags, word in cases:
        code, said = fails("run", "--data", data, "--no-multicast", *flags)
        assert code == 2 and word in said, said
    code, said = fails("run", "--data", tmp_path / "file" / "n")
    assert code == 2 and "--data" in said
    code, said = fails("run", "--check-config", "--data", tmp_path / "fresh", "--http", "x")
    assert code == 2
    subprocess.run([BINARY, "run", "--check-config", "--data", tmp_path / "fresh"], check=True, capture_output=True)
    assert not (tmp_path / "fresh").exists(), "a check makes nothing"
    node = nodes("busy").start()
    code, said = fails("run", "--data", node.data, "--http", "127.0.0.1:0", "--no-multicast")
    assert code == 2 and "in use" in said


def test_it_ends_at_once_and_goes_on_where_it_was(nodes):
    node = nodes("a").start()
    alice = node.client().register("alice")
    room = alice.create("12", name="Kept")
    event = alice.send(room, "still here")
    alice.close()
    for how in (signal.SIGTERM, signal.SIGINT):
        began = time.monotonic()
        assert node.stop(how) == 0
        assert time.monotonic() - began < 2
        node.start()
    again = node.client("again").login("alice")
    assert [e["id"] for e in again.wait(room, "still here")] == [event]


def test_accounts_from_the_command_line(nodes):
    node = nodes("a")
    offline = lambda *words, **more: node.mangrove("account", *words, **more)
    offline("create", "alice", input=WORDS + "\n")
    assert "alice" in offline("list")
    node.start(registration="token")
    node.client().login("alice", WORDS)
    offline("create", "bob", input=WORDS + "\n")
    node.client("bob").login("bob", WORDS)
    listed = offline("list")
    assert "alice" in listed and "bob" in listed
    offline("reset-password", "bob", input="another long password\n")
    node.client("bob2").login("bob", "another long password")
    with pytest.raises(AssertionError, match="M_FORBIDDEN"):
        node.client("bob3").login("bob", WORDS)
    with pytest.raises(AssertionError, match="taken|in use|exists"):
        offline("create", "alice", input=WORDS + "\n")
    link = offline("share", "alice")
    name = node.mangrove("server-name")
    assert f"matrix:u/alice:{name}" in link and "█" in link
    token = offline("token")
    assert re.fullmatch(r"[A-Za-z0-9._~-]{16,64}", token)


def test_registration_needs_the_token_unless_it_is_open(nodes):
    import urllib.error
    import urllib.request
    node = nodes("a").start(registration="token")
    token = re.search(r"token\s+(\S+)", node.said()).group(1)

    def register(name, auth):
        body = {"username": name, "password": WORDS, **({"auth": auth} if auth else {})}
        request = urllib.request.Request(node.url + "/_matrix/client/v3/register", json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    status, body = register("eve", None)
    assert status == 401 and body["flows"] == [{"stages": ["m.login.registration_token"]}]
    session = body["session"]
    assert register("eve", {"type": "m.login.dummy", "session": session})[0] == 401
    use = {"type": "m.login.registration_token", "token": token, "session": session}
    assert register("alice", use)[0] == 200
    status, body = register("mallory", None)
    assert register("mallory", use | {"session": body["session"]})[0] == 401, "a token makes one account"


def test_ctl_tells_of_peers_and_finds_keys(nodes):
    a, b, c = nodes("a").start(), nodes("b"), nodes("c")
    b.start(peers=[a])
    c.start(peers=[b])
    keys = {node.name: node.mangrove("key") for node in (a, b, c)}
    from client import until
    until(lambda: {peer["key"] for peer in json.loads(b.mangrove("ctl", "--json", "peers"))} == {keys["a"], keys["c"]}, 10, "peers")
    roots = lambda: {node.mangrove("ctl", "root") for node in (a, b, c)}
    until(lambda: len(roots()) == 1, 10, "one root")
    assert roots() <= set(keys.values())
    assert "ms" in until(lambda: subprocess.run([BINARY, "ctl", "--data", str(a.data), "ping", keys["c"]],
                                                capture_output=True, text=True).stdout, 10, "ping")
    assert keys["c"] in a.mangrove("ctl", "lookup", c.mangrove("address"))
    assert len(json.loads(a.mangrove("ctl", "--json", "trees"))) == 4
    assert keys["c"] in a.mangrove("ctl", "sessions")
    d = nodes("d").start()
    d.mangrove("ctl", "add-peer", a.overlay)
    until(lambda: len(json.loads(d.mangrove("ctl", "--json", "peers"))) == 1, 10, "a peer added by hand")
    d.mangrove("ctl", "remove-peer", a.overlay)
    until(lambda: json.loads(d.mangrove("ctl", "--json", "peers")) == [], 10, "a peer let go")


def test_recovery_words_are_shown_once_and_forgotten(nodes):
    node = nodes("a")
    node.mangrove("init")
    words = node.mangrove("account", "recovery-words").split()
    assert len([word for word in words if word.isalpha() and word.islower()]) >= 12
    node.mangrove("account", "recovery-words", "--forget")
    with pytest.raises(AssertionError):
        node.mangrove("account", "recovery-words")
