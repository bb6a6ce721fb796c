"""kill -9 in a join, in a partial join, in a transaction, in the middle of history: nothing that was acknowledged is lost."""
import pathlib
import subprocess

import pytest

from synapse import PYTHON


@pytest.mark.parametrize("what", ["join", "transaction", "history"])
def test_killed_in_the_middle_of(what):
    if not PYTHON.exists():
        pytest.skip(f"no Synapse's Python to make up servers with: {PYTHON} (./run-tests system installs it)")
    script = pathlib.Path(__file__).parent / "kills.py"
    ended = subprocess.run([PYTHON, script, what], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout[-500:] + ended.stderr[-4000:]
