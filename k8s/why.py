"""What the cluster's observations mean: for a stage one sentence of cause and one of remedy, from its events alone.

The events are what the observer wrote (runs/<run>/events), so this works after the pods are gone; what the live cluster
shows now can be added to them.
"""

from collections.abc import Callable

from pipeline.store.events import Event

Sentence = tuple[str, str]


def explain(mine: list[Event], again: str) -> Sentence | None:
    """(cause, remedy) of the newest thing that the cluster said after the process's own last word; None for nothing.

    `mine`: one stage's events, oldest first; `again`: the command that starts the chain again.
    """
    spoke = max((event.time for event in mine if event.what in ("started", "ended")), default=0.0)
    told = [
        event
        for event in mine
        if event.what in ("observed", "noted") and event.time >= spoke and event.facts.get("reason", "") in REASONS
    ]
    if not told:
        return None
    last = told[-1]
    if REASONS[last.facts["reason"]] is _lost:  # of a pod that never ran: what held it, if that is known
        held = [event for event in told if event.worker == last.worker and REASONS[event.facts["reason"]] is not _lost]
        last = held[-1] if held else last
    return REASONS[last.facts["reason"]](last, again)


def last_line(message: str) -> str:
    """Of the end of a container's log our own error, else the last line that names one, else the last line."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    ours = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    named = [line for line in lines if "Error" in line]
    return (ours or named or lines or [""])[-1].rstrip(".")


def _killed(event: Event, again: str) -> Sentence:
    limit = event.facts.get("memory_limit")
    code = event.facts.get("container_exit_code") or event.exit_code or 137
    who = "its process" if event.what == "observed" else f"container {event.facts.get('container', '?')!r} beside it"
    at = f" at its limit of {limit}" if limit else ""
    return (
        f"{who} was killed for want of memory{at} (OOMKilled, exit code {code})",
        f"Give its profile more host_memory_gib (or stages.{event.stage}.memory), or lower its batch or workers; "
        f"what is saved stays: {again}",
    )


def _image(event: Event, again: str) -> Sentence:
    image = event.facts.get("image") or "its image"
    said = f": {event.message}" if event.message else ""
    return (
        f"image {image} cannot be pulled ({event.facts['reason']}){said}",
        "Correct images.* in the values or push that image; a private registry wants images.pullSecrets",
    )


def _unschedulable(event: Event, again: str) -> Sentence:
    nodes = str(event.facts.get("nodes") or "")
    return (
        f"no node takes its pod (Unschedulable): {event.message}{f' Nodes: {nodes}' if nodes else ''}",
        "Add or free such a node, correct its labels, or choose another profile (--profile)",
    )


def _configuration(event: Event, again: str) -> Sentence:
    return (
        f"its container cannot be made ({event.facts['reason']}): {event.message}",
        "Create what is missing in the namespace, or correct its name in the values; the pod follows by itself",
    )


def _start(event: Event, again: str) -> Sentence:
    return (
        f"its container did not start ({event.facts['reason']}): {event.message}",
        f"Use an image of hanforge's own (make images), then: {again}",
    )


def _refused(event: Event, again: str) -> Sentence:
    return (
        f"the cluster refuses to create its pod (FailedCreate): {event.message}",
        "Mend the quota or the namespace's Pod Security level; the Job tries again by itself",
    )


def _lost(event: Event, again: str) -> Sentence:
    said = f": {event.message}" if event.message else ""
    return (
        f"its pod was taken away ({event.facts['reason']}){said}",
        f"It is not counted as a failure; another pod goes on from what is saved. If none comes: {again}",
    )


def _gave_up(event: Event, again: str) -> Sentence:
    return (f"its Job gave up ({event.facts['reason']}): {event.message}", f"Mend the cause, then: {again}")


def _suspended(event: Event, again: str) -> Sentence:
    return (
        "its Job is suspended: Kueue has not admitted it, or somebody stopped it",
        f"Wait for quota (kubectl describe workload), or: {again}",
    )


def _volume(event: Event, again: str) -> Sentence:
    return (
        f"a volume of its pod cannot be mounted ({event.facts['reason']}): {event.message}",
        "Create the claim or ConfigMap that is missing; the pod follows by itself",
    )


def _scaling(event: Event, again: str) -> Sentence:
    if event.facts["reason"] == "TriggeredScaleUp":
        return f"a node is being made for it: {event.message}", "Wait"
    return f"the autoscaler makes no node for it: {event.message}", "Choose another profile, or allow such nodes"


def _under_way(event: Event, again: str) -> Sentence:
    return f"its pod is {event.message}", "Wait; hanforge status --watch follows it"


REASONS: dict[str, Callable[[Event, str], Sentence]] = {
    "OOMKilled": _killed,
    **dict.fromkeys(("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"), _image),
    **dict.fromkeys(("Unschedulable", "FailedScheduling", "SchedulingGated"), _unschedulable),
    **dict.fromkeys(("CreateContainerConfigError", "CreateContainerError"), _configuration),
    **dict.fromkeys(("StartError", "ContainerCannotRun", "RunContainerError"), _start),
    "UnderWay": _under_way,
    "FailedCreate": _refused,
    **dict.fromkeys(("FailedMount", "FailedAttachVolume"), _volume),
    **dict.fromkeys(
        (
            "Evicted",
            "EvictionByEvictionAPI",
            "DeletionByTaintManager",
            "DeletionByPodGC",
            "TerminationByKubelet",
            "PreemptionByScheduler",
            "Preempted",
            "NodeLost",
            "PodDeleted",
        ),
        _lost,
    ),
    "DeadlineExceeded": _gave_up,  # of a Job that used up its tries the last of them tells more
    **dict.fromkeys(("Suspended", "JobSuspended"), _suspended),
    **dict.fromkeys(("TriggeredScaleUp", "NotTriggerScaleUp"), _scaling),
}
