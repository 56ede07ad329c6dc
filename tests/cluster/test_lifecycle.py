"""The cluster of our own leaves nothing behind, whenever it is ended, and comes up again after a kill halfway.

Runs only where none runs, since it ends what it starts: `make cluster-down`, then name this file.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import build, own
from tests.cluster.layout import CACHE, CGROUP, KUBECONFIG, ROOT
from tests.cluster.processes import processes

pytestmark = pytest.mark.cluster
UP = [sys.executable, "-m", "tests.cluster.up", "--use", "own"]
DOWN = [sys.executable, "-m", "tests.cluster.down"]


@pytest.fixture(autouse=True)
def _nothing_runs() -> Iterator[None]:
    if os.geteuid() != 0 or not build.built():
        pytest.skip("NO LIFECYCLE TEST: needs root, and the programs that `make cluster-up` builds")
    if own.first_process() is not None:
        pytest.skip("NO LIFECYCLE TEST: a cluster runs, which it would end; `make cluster-down` first")
    yield
    subprocess.run(DOWN, cwd=ROOT, check=True)


def traces() -> dict[str, object]:
    """What a cluster could leave on the machine."""
    shown = {
        " ".join(command): subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for command in (["ip", "-br", "link"], ["ip", "route"], ["iptables-save", "-t", "nat"], ["iptables-save"])
    }
    settings = ("vm/overcommit_memory", "kernel/panic", "net/ipv4/ip_forward")
    return {
        "commands": {name: [line for line in text.splitlines() if line[:1] != "#"] for name, text in shown.items()},
        "mounts": sorted(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()),
        "cgroups": [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{CGROUP}")],
        "folders": sorted(str(path) for top in ("/run/netns", "/var/lib", "/var/log") for path in Path(top).glob("*")),
        "settings": {name: Path("/proc/sys", name).read_text() for name in settings},
        "processes": processes("-m", "tests.cluster.machine"),
        "state": sorted(path.name for path in CACHE.iterdir()),
        "kubeconfig": KUBECONFIG.exists(),
    }


def test_up_and_down_leave_no_trace_and_twice_is_fine() -> None:
    subprocess.run(DOWN, cwd=ROOT, check=True)
    before = traces()
    subprocess.run(UP, cwd=ROOT, check=True)
    again = subprocess.run(UP, cwd=ROOT, check=True, capture_output=True, text=True)
    assert "already up" in again.stdout
    subprocess.run(DOWN, cwd=ROOT, check=True)
    assert traces() == before
    again = subprocess.run(DOWN, cwd=ROOT, check=True, capture_output=True, text=True)
    assert "no cluster runs" in again.stdout and traces() == before


@pytest.mark.parametrize("seconds", [0.7, 1.2, 2.0, 4.0, 6.0])
def test_killed_halfway_it_comes_up_again(seconds: float) -> None:
    subprocess.run(DOWN, cwd=ROOT, check=True)
    before = traces()
    process = subprocess.Popen(UP, cwd=ROOT)
    time.sleep(seconds)
    process.kill()
    process.wait()
    subprocess.run(UP, cwd=ROOT, check=True)
    subprocess.run(DOWN, cwd=ROOT, check=True)
    assert traces() == before
