"""What the cluster shows now of a run: each stage's pods in a few words, and observations that nobody wrote yet.

Only looks, and only where the run's events say that a release works on it. A cluster that does not answer is a note.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from k8s import nodes
from k8s.chain import ended, is_over
from k8s.client import JOBS, NODES, PODS, Cluster, Object
from k8s.connection import connect
from k8s.observer import MAIN, RELEASE, RUN, STAGE, observations, seconds
from k8s.why import explain, last_line
from pipeline.errors import GateRefused, HanforgeError, UserError
from pipeline.store.events import Event
from pipeline.store.retry import patience

PATIENCE_SECONDS = 3.0
DRIVER = ""  # the stage of the driver's own pods


@dataclass
class Live:
    """`pods` and `jobs` by stage in words ("" is the driver's), `seen` what the run's events lack, `note` what is not
    known."""

    pods: dict[str, str] = field(default_factory=dict)
    jobs: dict[str, str] = field(default_factory=dict)
    seen: list[Event] = field(default_factory=list)
    note: str = ""


def release_of(happened: list[Event]) -> tuple[str, str] | None:
    """(release, namespace) that the run was last asked for by; None for a run of a machine."""
    asked = [event for event in happened if event.what == "asked for"]
    if not asked or "release" not in asked[-1].facts:
        return None
    return str(asked[-1].facts["release"]), str(asked[-1].facts["namespace"])


def live(run: str, happened: list[Event], context: str | None = None) -> Live:
    """The cluster's part of a run's state."""
    where = release_of(happened)
    if where is None:
        return Live()
    try:
        with patience(PATIENCE_SECONDS):
            known = {str(event.facts.get("seen")) for event in happened}
            return look(connect(where[1], context), f"{RUN}={run}", known)
    except HanforgeError as error:
        return Live(note=f"the cluster is not asked: {error.what}")


def look(cluster: Cluster, selector: str, known: set[str]) -> Live:
    """The pods and Jobs that a selector names; of what they show, what is not `known` yet."""
    pods, jobs = (cluster.list(resource, selector)["items"] for resource in (PODS, JOBS))
    found = Live(_words(pods, jobs), {_label(each): _job_words(each) for each in [*pods, *jobs]})
    for resource, items in ((PODS, pods), (JOBS, jobs)):
        for item in items:
            found.seen.extend(each.event() for each in observations(resource, item) if each.identity not in known)
    found.seen.extend(_under_way(pod) for pod in pods if _label(pod) != DRIVER and not is_over(pod))
    if any(_is_unscheduled(pod) for pod in pods):
        _name_nodes(cluster, pods, found.seen)
    return found


def release_reasons(cluster: Cluster, release: str) -> list[str]:
    """Why a release is not further, from the cluster alone: for one whose run the store does not know yet."""
    found = look(cluster, f"{RELEASE}={release}", set())
    again = f"hanforge retry {release} --namespace {cluster.namespace}"
    stages = dict.fromkeys(event.stage for event in found.seen if event.stage != DRIVER)
    out = [reason for reason in (driver_reason(found, again, stages),) if reason]
    for stage in stages:
        mine = [event for event in found.seen if event.stage == stage]
        told = explain(mine, again) or _last_words(mine, again)
        if told:
            out.append(f"{stage}: {told[0].rstrip('.')}. {told[1]}")
    if not found.jobs:
        raise UserError(
            f"namespace {cluster.namespace!r} shows nothing of release {release!r}: no pods, no Jobs",
            "Correct --release or --namespace; of what ended long ago the store tells: hanforge why --store URL",
        )
    return out or [f"{stage or 'driver'}: {found.pods.get(stage) or words}" for stage, words in found.jobs.items()]


def driver_reason(found: Live, again: str, stages: Iterable[str]) -> str:
    """Why the driver itself does not work; "" when it does, or when it ended as one of the `stages` did."""
    mine = [event for event in found.seen if event.stage == DRIVER]
    told = explain(mine, again) or _last_words(mine, again)
    refused = any(event.facts.get("container_exit_code") == GateRefused.exit_code for event in mine)
    if told is None or refused or told[0].startswith(tuple(f"{stage}: " for stage in stages)):
        return ""
    return f"driver: {told[0].rstrip('.')}. {told[1]}"


def _last_words(mine: list[Event], again: str) -> tuple[str, str] | None:
    """What a container said as it ended badly; of a traceback its last line."""
    ended = [event.message for event in mine if event.facts.get("container_exit_code") and event.message]
    if not ended:
        return None
    said = last_line(ended[-1]) if "Traceback (most recent call last)" in ended[-1] else ended[-1]
    return said.removeprefix("driver: "), f"Then: {again}"


def _words(pods: list[Object], jobs: list[Object]) -> dict[str, str]:
    """Example: {"phase1": "Running on h100-0", "augment": "3 Running, 1 Pending (Unschedulable)"}"""
    out: dict[str, str] = {}
    for job in jobs:
        if job["spec"].get("suspend"):
            out[job["metadata"]["labels"].get(STAGE, DRIVER)] = "suspended"
    by_stage: dict[str, list[str]] = {}
    for pod in pods:
        if not is_over(pod):
            by_stage.setdefault(pod["metadata"]["labels"].get(STAGE, DRIVER), []).append(_state(pod))
    for stage, states in by_stage.items():
        counted = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
        out[stage] = states[0] if len(states) == 1 else ", ".join(counted)
    return out


def _job_words(job: Object) -> str:
    """Of a Job what became of it; of anything else that it is there."""
    how = next((how for how in ("Complete", "Failed") if ended(job, how)), None)
    return f"its Job is {how.lower()}" if how else "it is there, and no pod of it yet"


def _label(item: Object) -> str:
    return str(item["metadata"]["labels"].get(STAGE, DRIVER))


def _under_way(pod: Object) -> Event:
    """That there is a pod: until its process speaks, or something is wrong with it, that is all to say of a stage."""
    made = seconds(pod["metadata"].get("creationTimestamp")) or 0.0
    return Event(made, _label(pod), "noted", pod["metadata"]["name"], None, _state(pod), {"reason": "UnderWay"})


def _state(pod: Object) -> str:
    if pod["metadata"].get("deletionTimestamp"):
        return "Ending"
    status = pod["status"]
    waiting = [
        (each.get("state") or {}).get("waiting", {}).get("reason", "")
        for each in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
        if each["name"] in MAIN or not each.get("ready")
    ]
    why = "Unschedulable" if _is_unscheduled(pod) else next((reason for reason in waiting if reason), "")
    node = pod["spec"].get("nodeName")
    return f"{status.get('phase', 'Pending')}{f' ({why})' if why else f' on {node}' if node else ''}"


def _is_unscheduled(pod: Object) -> bool:
    conditions = pod["status"].get("conditions") or ()
    return any(each["type"] == "PodScheduled" and each["status"] == "False" for each in conditions)


def _name_nodes(cluster: Cluster, pods: list[Object], seen: list[Event]) -> None:
    """Put each node's own reason beside the scheduler's count of them, where nodes may be listed."""
    if not cluster.allowed("list", NODES):
        return
    known = cluster.list(NODES)["items"]
    for pod in (pod for pod in pods if _is_unscheduled(pod)):
        words = nodes.in_words(nodes.candidates(known, pod["spec"]))
        condition = next(each for each in pod["status"]["conditions"] if each["type"] == "PodScheduled")
        facts = {"reason": condition.get("reason", "Unschedulable"), "nodes": words}
        stage, name = pod["metadata"]["labels"].get(STAGE, DRIVER), pod["metadata"]["name"]
        seen.append(Event(time.time(), stage, "noted", name, None, condition.get("message", ""), facts))
