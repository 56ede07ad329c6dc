"""What the cluster shows of a run's pods and Jobs, written once each to `runs/<run id>/events/`.

Pods and cluster events vanish; what is written stays, so that `why` can tell later. An observation has an identity
(object, container, reason), which the driver that comes after this one finds in the store and does not write again.
"""

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from k8s.client import EVENTS, JOBS, JOBSETS, PODS, Object, Resource
from k8s.watch import Change
from pipeline.store import events
from pipeline.store.events import Event
from pipeline.store.objects import Store

RUN, STAGE, RELEASE = "hanforge.io/run", "hanforge.io/stage", "app.kubernetes.io/instance"
MAIN = ("stage", "main")  # the container whose end is the stage's; Argo calls it main
USUAL = ("ContainerCreating", "PodInitializing")  # waiting reasons that need no word
TOLD = ("TriggeredScaleUp", "NotTriggerScaleUp", "Preempted", "TaintManagerEviction")  # of events that are no warnings
KEPT_EVENTS = 1000


@dataclass(frozen=True)
class Observation:
    """One thing seen: `what` and `exit_code` as in Event; `at` is None when the object does not say when."""

    run: str
    stage: str
    pod: str
    reason: str
    message: str
    identity: str
    what: str = "noted"
    exit_code: int | None = None
    at: float | None = None
    node: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def event(self) -> Event:
        """As the store keeps it."""
        when = time.time() if self.at is None else self.at
        return Event(when, self.stage, self.what, self.pod, self.exit_code, self.message, self._facts())

    def write(self, store: Store) -> None:
        """Record it."""
        facts = self._facts()
        events.say(store, self.run, self.stage, self.what, self.pod, self.exit_code, self.message, self.at, **facts)

    def _facts(self) -> dict[str, Any]:
        return {"reason": self.reason, "seen": self.identity, "host": self.node, **self.facts}


def seconds(stamp: str | None) -> float | None:
    """RFC 3339 as seconds since the epoch. Example: "1970-01-01T00:01:00Z" -> 60.0"""
    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp() if stamp else None


def observations(resource: Resource, item: Object, deleted: bool = False) -> list[Observation]:
    """What a pod, a Job or a JobSet of a run shows now; of anything else nothing."""
    labels = item["metadata"].get("labels") or {}
    if RUN not in labels:
        return []
    if resource == PODS:
        return [*_of_pod(item), *(_of_deletion(item) if deleted else ())]
    return list(_of_job(item)) if resource in (JOBS, JOBSETS) else []


def _of_pod(pod: Object) -> Iterator[Observation]:
    status = pod.get("status") or {}
    for condition in status.get("conditions") or ():
        unscheduled = condition["type"] == "PodScheduled" and condition["status"] == "False"
        disrupted = condition["type"] == "DisruptionTarget" and condition["status"] == "True"
        if unscheduled or disrupted:
            said = condition.get("message", "")
            yield _noted(pod, condition.get("reason", ""), said, _words(said))
    for container in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        yield from _of_container(pod, container)
    if status.get("reason"):  # Evicted, NodeLost, DeadlineExceeded, UnexpectedAdmissionError
        yield _noted(pod, status["reason"], status.get("message", ""))


def _of_container(pod: Object, container: Object) -> Iterator[Observation]:
    waiting = container.get("state", {}).get("waiting") or {}
    facts = {"container": container["name"], "image": container.get("image", "")}
    if waiting.get("reason") and waiting["reason"] not in USUAL:
        yield _noted(pod, waiting["reason"], waiting.get("message", ""), container["name"], facts)
    for state in (container.get("lastState") or {}, container.get("state") or {}):
        ended = state.get("terminated")
        if ended:
            yield _end(pod, container, ended, facts)


def _end(pod: Object, container: Object, ended: Object, facts: dict[str, Any]) -> Observation:
    """A container's end. The stage's own is the process's, with exit code and last words; a sidecar's is noted."""
    stage = _label(pod, STAGE)
    own = bool(stage) and container["name"] in MAIN
    finished = seconds(ended.get("finishedAt"))
    limit = _memory_limit(pod, container["name"])
    return Observation(
        _label(pod, RUN),
        stage,
        pod["metadata"]["name"],
        ended.get("reason", ""),
        ended.get("message", "").strip().removeprefix(f"{stage}: "),
        _identity(pod, container["name"], ended.get("containerID", ""), ended.get("finishedAt") or ""),
        "observed" if own else "noted",
        ended.get("exitCode") if own else None,
        # Whole seconds, rounded down: put it behind what the process itself said within that second.
        finished + 0.999 if finished is not None else None,
        pod.get("spec", {}).get("nodeName", ""),
        {**facts, "memory_limit": limit, "container_exit_code": ended.get("exitCode")},
    )


def _of_job(job: Object) -> Iterator[Observation]:
    for condition in (job.get("status") or {}).get("conditions") or ():
        if condition["type"] in ("Failed", "Suspended") and condition["status"] == "True":
            reason = condition.get("reason") or condition["type"]
            yield _noted(job, reason, condition.get("message", ""), at=condition.get("lastTransitionTime"))


def _of_deletion(pod: Object) -> Iterator[Observation]:
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    if not any(each["name"] in MAIN and (each.get("state") or {}).get("terminated") for each in statuses):
        yield _noted(pod, "PodDeleted", "its pod was deleted before it ended")


def of_event(event: Object, about: Object) -> Observation | None:
    """A cluster event (core/v1 Event) about a pod or a Job of a run; None for one that tells nothing."""
    if event.get("type") == "Normal" and event.get("reason") not in TOLD:
        return None
    when = event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp")
    said = event.get("message", "")
    return _noted(about, event.get("reason", ""), said, _words(said), at=when)


def _words(message: str) -> str:
    """A message without its numbers: a scheduler that counts other nodes says nothing new."""
    return re.sub(r"\d+", "#", message)


def _noted(
    item: Object,
    reason: str,
    message: str,
    detail: str = "",
    facts: dict[str, Any] | None = None,
    at: str | None = None,
) -> Observation:
    return Observation(
        _label(item, RUN),
        _label(item, STAGE),
        item["metadata"]["name"],
        reason,
        message,
        _identity(item, reason, detail),
        at=seconds(at),
        node=item.get("spec", {}).get("nodeName", ""),
        facts=facts or {},
    )


def _label(item: Object, name: str) -> str:
    return str((item["metadata"].get("labels") or {}).get(name, ""))


def _identity(item: Object, *parts: str) -> str:
    words = "\0".join([item["metadata"].get("uid", ""), *parts])
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def _memory_limit(pod: Object, container: str) -> str:
    spec = pod.get("spec") or {}
    for each in [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]:
        if each["name"] == container:
            return str((each.get("resources") or {}).get("limits", {}).get("memory", ""))
    return ""


class Observer:
    """Writes what changes show, each thing once; an event that comes before its pod waits for it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: dict[str, set[str]] = {}  # run -> identities
        self._about: dict[str, Object] = {}  # uid -> pod or Job
        self._early: OrderedDict[str, list[Object]] = OrderedDict()  # uid -> events

    def see(self, change: Change) -> list[Observation]:
        """What is new in a change; it stands in the store when this returns."""
        item = change.object
        if item is None:
            return []
        if change.resource == EVENTS:
            found = self._of_event(item)
        else:
            found = observations(change.resource, item, change.deleted)
            if RUN in (item["metadata"].get("labels") or {}):
                uid = item["metadata"]["uid"]
                self._about[uid] = item
                found.extend(seen for event in self._early.pop(uid, ()) if (seen := of_event(event, item)))
        new = [each for each in found if self._is_new(each)]
        for each in new:
            each.write(self._store)
        return new

    def _of_event(self, event: Object) -> list[Observation]:
        uid = event.get("involvedObject", {}).get("uid", "")
        if uid in self._about:
            seen = of_event(event, self._about[uid])
            return [seen] if seen else []
        self._early.setdefault(uid, []).append(event)
        while len(self._early) > KEPT_EVENTS:
            self._early.popitem(last=False)
        return []

    def _is_new(self, observation: Observation) -> bool:
        run = observation.run
        if run not in self._seen:
            happened = events.events(self._store, run)
            self._seen[run] = {str(event.facts["seen"]) for event in happened if "seen" in event.facts}
        new = observation.identity not in self._seen[run]
        self._seen[run].add(observation.identity)
        return new
