"""Drives a chain in the cluster: creates each stage's Job when all it needs is done, and ends as the chain ends.

Done is what the store says. Nothing is kept here: a driver that is killed at any instant is followed by one that finds
the same Jobs under the same names and the same done stages. It is the observer too.
"""

import logging
import time
from typing import Any

from k8s.chain import JOB_NAME, Chain, ended, is_over, pods_of, resource_of
from k8s.client import CONFIGMAPS, EVENTS, JOBS, PODS, WORKFLOWS, Cluster, Object
from k8s.observer import RELEASE, RUN, STAGE, Observer, seconds
from k8s.watch import Change, Feed
from pipeline.errors import GateRefused, HanforgeError, UserError
from pipeline.store import events
from pipeline.store.objects import Store
from pipeline.store.runs import RunLock
from pipeline.store.standing import is_done, standing
from pipeline.store.status import why_not_done
from pipeline.store.stop import StopFlag

LOG = logging.getLogger(__name__)
TICK_SECONDS = 1.0
LOOK_SECONDS = 20.0  # how often the store is asked about a stage of which the cluster says nothing new


def drive(cluster: Cluster, store: Store, lock: RunLock, chain: Chain, stop: StopFlag) -> None:
    """Return when every stage in scope is done; raise what ends the chain before: UserError, GateRefused, Stopped."""
    Driver(cluster, store, lock, chain).run(stop)


def open_stages(store: Store, lock: RunLock, chain: Chain) -> dict[str, bool]:
    """By stage in scope: whether it still needs a pod."""
    return {name: not standing(store, lock, name).done for name in chain.needs}


def say_who(store: Store, chain: Chain, namespace: str, recipe: str) -> None:
    """Leave in the run's events which release works on it, for `status` and `why` elsewhere; once a release."""
    asked = [event for event in events.events(store, chain.run) if event.what == "asked for"]
    again = f"hanforge retry {chain.release} --namespace {namespace}"
    facts: dict[str, Any] = {"release": chain.release, "namespace": namespace, "scope": list(chain.needs)}
    if not asked or any(asked[-1].facts.get(name) != value for name, value in facts.items()):
        message = f"release {chain.release} of recipe {recipe} in namespace {namespace}"
        facts["again"] = again
        events.say(store, chain.run, "", "asked for", message=message, **facts)


class Driver:
    """The state of one driver process: what the cluster told, and what the store said is done."""

    def __init__(self, cluster: Cluster, store: Store, lock: RunLock, chain: Chain) -> None:
        self._cluster, self._store, self._lock, self._chain = cluster, store, lock, chain
        self._observer = Observer(store)
        self._stages = {chain.job_name(stage): stage for stage in chain.needs}
        self._jobs: dict[str, Object] = {}  # by name, of this chain
        self._done: set[str] = set()
        self._looked: dict[str, float] = {}  # stage -> when the store was asked
        self._renewed: set[str] = set()
        self._failure: HanforgeError | None = None
        found = cluster.get(CONFIGMAPS, chain.owner)
        if found is None:
            raise UserError(f"ConfigMap {chain.owner!r} is gone: release {chain.release!r} was uninstalled")
        self._owner = found

    def run(self, stop: StopFlag) -> None:
        """See `drive`."""
        feed = release_feed(self._cluster, self._chain)
        for resource in {JOBS, *(resource_of(manifest) for manifest in self._chain.manifests.values())}:
            feed.add(resource, self._chain.selector)
        while True:
            stop.raise_if_requested()
            for change in feed.take(TICK_SECONDS):
                self._take(change)
            for stage in self._chain.needs:
                if stage not in self._done:
                    self._advance(stage)
            if len(self._done) == len(self._chain.needs):
                return
            if self._failure is not None and not any(_is_active(job) for job in self._jobs.values()):
                raise self._failure

    def _take(self, change: Change) -> None:
        item = change.object or {}
        if change.resource == PODS:
            self._looked.pop(item["metadata"]["labels"].get(STAGE, ""), None)
        name = item["metadata"]["name"]
        if change.resource not in (PODS, EVENTS) and name in self._stages:
            _keep(self._jobs, name, change)
            self._looked.pop(self._stages[name], None)
        self._observer.see(change)

    def _advance(self, stage: str) -> None:
        """One stage that is not known to be done: look whether it is, else see to its Job."""
        if not all(need in self._done or need not in self._chain.needs for need in self._chain.needs[stage]):
            return
        if time.monotonic() - self._looked.get(stage, float("-inf")) < LOOK_SECONDS:
            return
        self._looked[stage] = time.monotonic()
        name = self._chain.job_name(stage)
        job = self._jobs.get(name)
        try:
            if is_done(self._store, self._lock, stage):
                LOG.info("%s: done", stage)
                self._done.add(stage)
                self._drop_waiting(stage, job, "done elsewhere")
            elif job is None and self._failure is None:
                self._create(stage)
            elif job is not None and ended(job, "Failed"):
                self._explain(stage, job)
            elif job is not None and ended(job, "Complete"):
                self._renew(stage, job)
            elif self._failure is not None:
                self._drop_waiting(stage, job, "the chain has failed")
        except GateRefused as error:
            self._fail(error)

    def _create(self, stage: str) -> None:
        body = self._chain.job(stage, self._owner)
        name = body["metadata"]["name"]
        created = self._cluster.create(resource_of(body), body)
        found = created or self._cluster.get(resource_of(body), name)
        if found is None:
            return  # deleted between the two answers: the next look creates it
        how = "created" if created else "is there already, going on with it"
        LOG.info("%s: %s %s %s", stage, body["kind"], name, how)
        self._jobs[name] = found

    def _explain(self, stage: str, job: Object) -> None:
        """The stage's Job failed: end the chain as its process ended."""
        for pod in self._cluster.list(PODS, pods_of(job))["items"]:
            self._observer.see(Change(PODS, pod))
        condition = ended(job, "Failed") or {}
        code, said = self._last_words(stage, seconds(job["metadata"]["creationTimestamp"]) or 0.0)
        said = said or str(condition.get("message", ""))
        again = f"Mend it, then: hanforge retry {self._chain.release} --namespace {self._cluster.namespace}"
        if code == GateRefused.exit_code:
            self._fail(GateRefused(f"{stage}: {said}"))
        elif code == UserError.exit_code:
            self._fail(UserError(f"{stage}: {said}", again))
        else:
            how = f"exit code {code}" if code else str(condition.get("reason", ""))
            self._fail(
                UserError(f"{stage}: its Job gave up ({how}): {said}", f"hanforge why {self._lock.run_id}. {again}")
            )

    def _last_words(self, stage: str, since: float) -> tuple[int, str]:
        """Exit code and message that made the Job fail: a final code before one of passing trouble, then the newest."""
        happened = [
            event
            for event in events.events(self._store, self._lock.run_id)
            if event.stage == stage and event.exit_code and event.time >= since
        ]
        final = [event for event in happened if event.exit_code in (UserError.exit_code, GateRefused.exit_code)]
        chosen = max(final or happened, key=lambda event: event.time, default=None)
        return (chosen.exit_code or 0, chosen.message) if chosen is not None else (0, "")

    def _renew(self, stage: str, job: Object) -> None:
        """Its Job ended well, yet the stage is open: what it made is gone, or something new is promoted. Once more."""
        if stage in self._renewed:
            why = why_not_done(self._store, self._lock, stage)
            self._fail(
                UserError(f"{stage}: its Job ended well twice, but {why}", "See: hanforge logs, hanforge doctor")
            )
            return
        self._renewed.add(stage)
        self._delete(job)

    def _drop_waiting(self, stage: str, job: Object | None, why: str) -> None:
        """A Job of which no pod has begun, and that need not begin any more, goes; one that runs is left to end."""
        if job is None or not _is_active(job):
            return
        pods = self._cluster.list(PODS, pods_of(job))["items"]
        if all(pod.get("status", {}).get("phase") == "Pending" for pod in pods) and not (job.get("status") or {}).get(
            "succeeded"
        ):
            LOG.info("%s: %s, its Job is not needed", stage, why)
            self._delete(job)

    def _delete(self, job: Object) -> None:
        self._cluster.delete(resource_of(job), job["metadata"]["name"], job["metadata"]["uid"])

    def _fail(self, error: HanforgeError) -> None:
        if self._failure is None:
            LOG.error("%s", error)
            self._failure = error
            self._looked.clear()


def release_feed(cluster: Cluster, chain: Chain) -> Feed:
    """The release's pods and the namespace's events, for an observer."""
    feed = Feed(cluster)
    feed.add(PODS, chain.selector)
    feed.add(EVENTS)
    return feed


def observe(cluster: Cluster, store: Store, chain: Chain, stop: StopFlag) -> None:
    """Only write what the pods of an Argo Workflow show, until it has ended and all was seen."""
    feed = release_feed(cluster, chain)
    feed.add(WORKFLOWS, f"{RELEASE}={chain.release},{RUN}={chain.run}")
    observer = Observer(store)
    workflows: dict[str, Object] = {}
    over = False
    while not over:
        stop.raise_if_requested()
        ended = bool(workflows) and all(is_over(flow) for flow in workflows.values())
        changes = feed.take(TICK_SECONDS)
        for change in changes:
            if change.resource == WORKFLOWS and change.object is not None:
                _keep(workflows, change.object["metadata"]["uid"], change)
            elif not _has_driver(change):
                observer.see(change)
        # Nothing new for a tick after its end; the namespace's events are everybody's and may never cease.
        over = ended and all(change.resource == EVENTS for change in changes)


def _keep(known: dict[str, Object], key: str, change: Change) -> None:
    if change.deleted:
        known.pop(key, None)
    elif change.object is not None:
        known[key] = change.object


def _has_driver(change: Change) -> bool:
    """Whether a pod is of a stage's Job, which under Argo a driver of its own follows and observes."""
    labels = (change.object or {}).get("metadata", {}).get("labels") or {}
    return change.resource == PODS and STAGE in labels and JOB_NAME in labels


def _is_active(job: Object) -> bool:
    return ended(job, "Failed") is None and ended(job, "Complete") is None
