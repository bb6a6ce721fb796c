"""State resolution 1, 2 and 2.1 over made-up forks: Synapse's and ours come to the same state."""
import collections
import json
import os
import pathlib
import subprocess

import pytest

from device import ROOT
from synapse import PYTHON

RESOLVE = pathlib.Path(os.environ.get("RESOLVE", ROOT / "target" / "release" / "examples" / "resolve"))
ROOMS = int(os.environ.get("RESOLUTION_ROOMS", "400"))
SEED = os.environ.get("RESOLUTION_SEED", "1")


def test_forks_resolve_as_in_synapse():
    if not PYTHON.exists():
        pytest.skip(f"no Synapse: {PYTHON} (./run-tests system installs it)")
    if not RESOLVE.exists():
        pytest.skip(f"no {RESOLVE}: cargo build --release --bins --examples")
    # Without this directory on the path: its synapse.py is another one.
    script = pathlib.Path(__file__).parent / "resolution.py"
    asked = subprocess.run([PYTHON, "-P", script, SEED, str(ROOMS)], capture_output=True, text=True, timeout=300)
    assert asked.returncode == 0, asked.stderr[-3000:]
    lines = asked.stdout.splitlines()
    answer = subprocess.run([RESOLVE], input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr[-3000:]
    seen, merged = collections.Counter(), 0
    for line, ours in zip(lines, answer.stdout.splitlines(), strict=True):
        question = json.loads(line)
        assert json.loads(ours) == question["expected"], line
        seen[question["version"]] += 1
        merged += question["expected"] not in question["sets"]
    assert len(seen) == 8 and min(seen.values()) >= ROOMS // 8, seen
    assert merged > len(lines) / 2, "most forks end in a state that none of them had"
