"""Ordinary clients: matrix-js-sdk with encryption on two nodes, and Hydrogen in Chromium."""
import json
import os
import shutil
import subprocess

import pytest

from device import ROOT
from node import free_port

JS = ROOT / "tests" / "system" / "js"
ARTEFACTS = ROOT / "target" / "system-tests"


def js(program, *nodes, seconds=120):
    """Runs a program of js/ against nodes; what it found."""
    done = subprocess.run(["node", program, *(node.url for node in nodes)], cwd=JS, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def pair(nodes):
    a = nodes("a").start("--no-rate-limits")
    return a, nodes("b").start("--no-rate-limits", peers=[a])


def test_js_sdk_users_on_two_nodes_talk_encrypted(pair):
    assert js("e2ee.mjs", *pair) == {
        "encrypted": True, "wire": "m.room.encrypted", "verified_by_cross_signing_known": True, "master_key_known": True}


def test_js_sdk_slides(pair):
    assert js("sliding.mjs", *pair) == {
        "first": ["room 10", "room 11", "room 8", "room 9"], "timelines": True, "encrypted": True, "early": 1}


def test_js_sdk_devices_and_people_trust_each_other(pair):
    assert js("trust.mjs", *pair, seconds=180) == {
        "ready": True, "backup": True, "same_emoji": True, "trusted": True, "old": True, "same_emoji_between_people": True,
        "restored": True, "dehydration": True, "still_verified": False}


def test_hydrogen_in_chromium_logs_in_reads_and_sends(nodes):
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not chromium:
        pytest.skip("needs Chromium (Debian package chromium)")
    a = nodes("a").start()
    b = nodes("b").start(peers=[a])
    alice, bob = a.client().register("alice"), b.client().register("bob")
    room = alice.create("12", name="Lagoon", invite=[bob.user])
    bob.accept(room)
    alice.wait_members(room, bob.user)
    alice.send(room, "ahoy there")
    bob.wait(room, "ahoy there")
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["node", "hydrogen/drive.mjs", b.url, "bob", "correct horse battery staple", "Lagoon", "ahoy there", "ahoy back",
         str(ARTEFACTS / "hydrogen.png")],
        cwd=JS, capture_output=True, text=True, timeout=150, env=os.environ | {"CHROMIUM": chromium})
    assert done.returncode == 0, done.stderr[-6000:]
    alice.wait(room, "ahoy back")


def test_a_person_logs_in_by_oauth_on_the_pages_of_the_node(nodes):
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not chromium:
        pytest.skip("needs Chromium (Debian package chromium)")
    port = free_port()
    node = nodes("a").start("--public-url", f"http://localhost:{port}", http=f"127.0.0.1:{port}")
    alice = node.client().register("alice")
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["node", "oauth/drive.mjs", f"http://localhost:{port}", "alice", "correct horse battery staple",
         str(ARTEFACTS / "oauth")],
        cwd=JS, capture_output=True, text=True, timeout=150, env=os.environ | {"CHROMIUM": chromium})
    assert done.returncode == 0, done.stderr[-6000:]
    found = json.loads(done.stdout.rpartition("\n")[2])  # the library logs before it
    assert found == {"user": alice.user, "room": True, "refreshed": True, "linked": True, "listed": True, "revoked": True,
                     "other_stays": True}
