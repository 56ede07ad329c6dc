"""`make test-cluster`: the project's own images on a real cluster against a real S3 API, every proof, one table.

It starts what the machine lacks (docker engine, cluster) and ends just that, on failure and Ctrl-C too. A machine that
cannot run it says so in one loud line and exits with 0. HANFORGE_TEST_CLUSTER=off leaves it out.
"""

import os
import signal
import sys
import time
from contextlib import ExitStack
from types import FrameType

from images import build as image_build
from images import daemon
from tests.acceptance import machine
from tests.acceptance.steps import Failed, Steps

TESTS = ("tests/cluster/test_cluster.py", "tests/cluster/test_layers.py", "tests/k8s", "tests/acceptance")
PYTHON = sys.executable


def main() -> int:
    """0: every proof holds, or the machine cannot run them; 1: one does not hold, or the limit was reached."""
    began = time.monotonic()
    why_not = machine.why_not()
    if why_not:
        print(f"\n{'=' * 20} SKIPPED test-cluster: {why_not} {'=' * 20}\n", flush=True)
        return 0
    signal.signal(signal.SIGTERM, _interrupt)
    steps = Steps(float(os.environ.get("HANFORGE_TEST_CLUSTER_MINUTES") or 65) * 60)
    free = machine.free_gb()
    try:
        with ExitStack() as ends:
            _prove(steps, ends)
    except Failed as error:
        print(f"test-cluster: {error}", file=sys.stderr, flush=True)
        steps.failed = True
    except KeyboardInterrupt:
        print("test-cluster: interrupted", file=sys.stderr, flush=True)
        steps.failed = True
    took = time.monotonic() - began
    print(f"\n{steps.table()}\n\nin all {took:.0f} s; {free - machine.free_gb():.1f} GB of disk taken and kept")
    return int(steps.failed)


def _prove(steps: Steps, ends: ExitStack) -> None:
    """Everything in order; what is started here is entered into `ends`."""
    machine.install_docker()
    if not daemon.answers():
        ends.callback(steps.end, "docker engine ended", PYTHON, "-m", "images.daemon", "stop")
        steps.run("docker engine", PYTHON, "-m", "images.daemon", "start")
    if not machine.has_base():
        machine.install_debootstrap()
        steps.run("base image", "images/base.sh", TAG=image_build.MADE)
    steps.run("images", PYTHON, "-m", "images.build", "--cpu")
    if not machine.cluster_runs():
        ends.callback(steps.end, "cluster ended", PYTHON, "-m", "tests.cluster.down")
    steps.run("cluster-up", PYTHON, "-m", "tests.cluster.up", "--use", machine.cluster_choice())
    steps.run("images to the nodes", PYTHON, "-m", "tests.acceptance.load")
    skips = machine.cluster_choice() != "own"
    steps.prove(PYTHON, "-m", "pytest", "-vv", "-p", "no:cacheprovider", *TESTS, skips=skips)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
