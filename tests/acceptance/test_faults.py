"""Proof 2: whatever is struck down on the way, the chain ends, and its bytes are those of the undisturbed one."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from k8s.client import NODES, PODS, Cluster
from pipeline.store.events import Event, events
from pipeline.store.status import newest_progress
from tests.acceptance.chain import DRIVER, TORCH_NODE, Leg, contents
from tests.acceptance.world import wait
from tests.cluster import nodes
from tests.cluster.processes import processes

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]
SCOPE = ("prepare", "validate", "phase1", "merge1", "phase2", "merge2")
RELEASE = "struck"
KUBELET_SECONDS = 60.0


def test_a_chain_that_is_struck_at_every_part_gives_the_same_bytes(leg: Leg, reference: dict[str, Any]) -> None:
    leg.only = SCOPE
    leg.deploy(RELEASE)
    trains(leg, "phase1", least=20)
    os.kill(first_process(leg, "phase1"), signal.SIGKILL)
    wait(lambda: ends(leg, "phase1", 137), 120, lambda: leg.state(RELEASE))

    trains(leg, "phase1")
    delete_pod(leg, "phase1")

    trains(leg, "phase1")
    delete_driver(leg)

    trains(leg, "phase2")
    with nodes.stopped_kubelet(TORCH_NODE):
        began = time.monotonic()
        wait(lambda: not is_ready(leg.here, TORCH_NODE), 120, lambda: leg.state(RELEASE))
        time.sleep(max(0.0, KUBELET_SECONDS - (time.monotonic() - began)))

    lock = leg.finish(RELEASE)
    undisturbed = {stage: reference[stage] for stage in SCOPE}
    assert contents(leg.store, lock, SCOPE) == undisturbed
    assert len(ends(leg, "phase1", 0)) == 1


def trains(leg: Leg, stage: str, least: int = 0) -> None:
    """Wait until a process of the stage takes optimizer steps, with more than `least` behind it and more before it."""
    since = time.time()

    def look() -> bool:
        if not any(pod["status"]["phase"] == "Running" for pod in leg.pods(RELEASE, stage)):
            return False
        seen = newest_progress(leg.lock(RELEASE).directory(leg.store, stage))
        running = seen.get("state") == "running" and seen["time"] > since
        return running and least < seen["done"] < (seen["total"] or 0)

    wait(look, 300, lambda: f"{stage} does not train\n{leg.state(RELEASE)}")


def first_process(leg: Leg, stage: str) -> int:
    """The machine's id of the process that is number 1 of the container of a stage of this leg."""
    here = f"HANFORGE_STORE={leg.store.url}".encode()
    for pid in processes("stage", stage):
        own = Path(f"/proc/{pid}")
        if here in (own / "environ").read_bytes().split(b"\0") and numbers(own)[-1] == "1":
            return pid
    pytest.fail(f"{stage} has no process to kill\n{leg.state(RELEASE)}")


def numbers(process: Path) -> list[str]:
    """A process's ids, from this machine's to that of its own container."""
    lines = (process / "status").read_text().splitlines()
    return next(line for line in lines if line.startswith("NSpid:")).split()[1:]


def ends(leg: Leg, stage: str, code: int) -> list[Event]:
    """The ends of the stage's process with this exit code, as the driver observed them."""
    found = events(leg.store, leg.runs[RELEASE])
    return [event for event in found if (event.what, event.stage, event.exit_code) == ("observed", stage, code)]


def delete_pod(leg: Leg, stage: str) -> None:
    """Delete the pod in which the stage runs, and wait until its process has ended as one that was asked to stop."""
    (struck,) = [pod for pod in leg.pods(RELEASE, stage) if pod["status"]["phase"] == "Running"]
    leg.here.delete(PODS, struck["metadata"]["name"], struck["metadata"]["uid"])
    wait(lambda: ends(leg, stage, 143), 180, lambda: leg.state(RELEASE))


def delete_driver(leg: Leg) -> None:
    """Delete the driver's pod, and wait until the next one runs."""
    (struck,) = leg.here.list(PODS, DRIVER)["items"]
    leg.here.delete(PODS, struck["metadata"]["name"], struck["metadata"]["uid"])

    def next_runs() -> bool:
        found = leg.here.list(PODS, DRIVER)["items"]
        others = [pod for pod in found if pod["metadata"]["uid"] != struck["metadata"]["uid"]]
        return any(pod["status"]["phase"] == "Running" for pod in others)

    wait(next_runs, 180, lambda: leg.state(RELEASE))


def is_ready(here: Cluster, node: str) -> bool:
    """Whether the control plane counts the node as ready."""
    found = here.get(NODES, node) or {}
    return any(one["type"] == "Ready" and one["status"] == "True" for one in found["status"]["conditions"])
