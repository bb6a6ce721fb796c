"""What the system tests share: a lab of devices, and a loud word where it cannot be had."""
import pathlib
import shutil
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from device import ROOT, Lab, can_make_namespaces  # noqa: E402
from node import Node  # noqa: E402


@pytest.fixture
def lab(tmp_path, request):
    if not can_make_namespaces():
        print("SKIPPED: this test needs root and `ip netns` (Debian package iproute2)", file=sys.stderr)
        pytest.skip("needs root and `ip netns`")
    lab = Lab(tmp_path)
    yield lab
    lab.close()
    keep_logs(tmp_path, request)


@pytest.fixture
def nodes(tmp_path, request):
    """Makes nodes on loopback by name."""
    made = []

    def node(name):
        made.append(Node(tmp_path, name))
        return made[-1]

    yield node
    for each in reversed(made):
        each.close()
    keep_logs(tmp_path, request)


def keep_logs(tmp_path, request):
    """What the nodes said, where a test failed: on the terminal, and under target/."""
    if getattr(request.node, "failed", False):
        keep = ROOT / "target" / "system-tests" / request.node.name
        shutil.rmtree(keep, ignore_errors=True)
        keep.mkdir(parents=True, exist_ok=True)
        for log in tmp_path.glob("*.out"):
            shutil.copy(log, keep)
            print(f"--- {log.name}\n{log.read_text(errors='replace')[-6000:]}", file=sys.stderr)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed:
        item.failed = True
