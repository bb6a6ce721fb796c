"""The Rust SDK with the room list, timelines and notifications of Element X: two people on two nodes."""
import subprocess

import pytest

from device import ROOT

PROGRAM = ROOT / "target" / "system-tests" / "rust-sdk" / "debug" / "mangrove-rust-sdk-test"
PASSWORD = "correct horse battery staple"


def test_two_people_with_the_sdk_of_element_x(nodes, tmp_path):
    if not PROGRAM.exists():
        pytest.skip("needs tests/system/rust-sdk, which ./run-tests builds")
    a = nodes("a").start("--no-rate-limits")
    b = nodes("b").start("--no-rate-limits", peers=[a])
    a.client().register("alice")
    b.client().register("bob")
    done = subprocess.run([PROGRAM, a.url, b.url, PASSWORD, tmp_path], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert done.stdout.endswith("all seen\n")
