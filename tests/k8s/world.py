"""A chain in a namespace whose pods run a shell script, or wait for the test to play their kubelet and their work.

`python -m tests.k8s.world STORE RUN NAMESPACE MANIFESTS` is a driver of it in a process of its own, to be killed.
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from k8s.chain import JOB_NAME, Chain, read_chain
from k8s.client import CONFIGMAPS, JOBS, PODS, Cluster, Object
from k8s.connection import connect
from k8s.driver import drive
from pipeline.store.events import Event, events
from pipeline.store.objects import Store
from pipeline.store.runs import find_run
from pipeline.store.stop import StopFlag
from tests.cluster.pods import pod_spec
from tests.store.world import finish_files, finish_rows, locked, rows

RELEASE = "tiny"
NEEDS = {"prepare_phase1": [], "phase1": ["prepare_phase1"], "merge1": ["phase1"]}
NOWHERE = {"hanforge.test/node": "none"}  # a node that is not there: the test plays the kubelet


class World:
    """The parts of one test: `store`, `lock`, `cluster`, and the folder with the chain's manifests."""

    def __init__(self, cluster: Cluster, store: Store, folder: Path) -> None:
        self.cluster, self.store, self.folder = cluster, store, folder
        self.lock = locked(store, folder)
        self.manifests = folder / "manifests"
        self.owner = cluster.create(CONFIGMAPS, self._meta(f"{RELEASE}-manifests", {}) | {"apiVersion": "v1"})

    def _meta(self, name: str, labels: dict[str, str]) -> Object:
        return {"metadata": {"name": name, "namespace": self.cluster.namespace, "labels": labels}}

    def chain(self, script: str | None = None, stages: tuple[str, ...] = tuple(NEEDS), **settings: Any) -> Chain:
        """Write the chain as the chart mounts it. Without a script pods wait for `end`; `settings` go into Jobs."""
        self.manifests.mkdir(exist_ok=True)
        spec = pod_spec(script or "true")
        spec["containers"][0]["name"] = "stage"
        if script is None:
            spec["nodeSelector"] = NOWHERE
        rule = {"action": "FailJob", "onExitCodes": {"containerName": "stage", "operator": "In", "values": [2, 3]}}
        for stage in stages:
            labels = {
                "app.kubernetes.io/instance": RELEASE,
                "hanforge.io/run": self.lock.run_id,
                "hanforge.io/stage": stage,
            }
            job = self._meta(f"{RELEASE}-{stage.replace('_', '-')}", labels)
            job |= {"apiVersion": "batch/v1", "kind": "Job"}
            job["spec"] = {
                "template": {"metadata": {"labels": labels}, "spec": spec},
                "podFailurePolicy": {"rules": [rule]},
            }
            job["spec"] |= {"backoffLimit": 2, **settings}
            (self.manifests / f"{stage}.json").write_text(json.dumps(job))
        told = {
            "run": self.lock.run_id,
            "owner": f"{RELEASE}-manifests",
            "stages": [{"name": stage, "needs": NEEDS[stage]} for stage in stages],
        }
        (self.manifests / "chain.json").write_text(json.dumps(told))
        return read_chain(self.manifests)

    def finish(self, stage: str) -> None:
        """Do the stage's work, as its process would."""
        if stage == "prepare_phase1":
            finish_rows(self.store, self.lock, stage, rows(4))
        else:
            output = "adapter" if stage == "phase1" else "model"
            finish_files(self.store, self.lock, stage, output, {"config.json": b"{}"}, self.folder)

    def jobs(self) -> dict[str, Object]:
        """The namespace's Jobs by stage."""
        found = self.cluster.list(JOBS)["items"]
        return {job["metadata"]["labels"]["hanforge.io/stage"]: job for job in found}

    def pod(self, stage: str) -> Object:
        """The stage's newest pod that has not ended, waited for."""

        def look() -> Object | None:
            name = self.jobs()[stage]["metadata"]["name"]
            found = self.cluster.list(PODS, f"{JOB_NAME}={name}")["items"]
            return next((pod for pod in found if pod["status"]["phase"] in ("Pending", "Running")), None)

        return until(look)

    def end(self, stage: str, code: int = 0, message: str = "", reason: str = "Completed") -> None:
        """Play the kubelet: the stage's pod ends with an exit code and last words."""
        pod = self.pod(stage)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        ended = {"exitCode": code, "reason": reason, "message": message, "finishedAt": stamp, "startedAt": stamp}
        own = {"name": "stage", "image": "i", "imageID": "", "ready": False, "restartCount": 0, "started": False}
        status = {
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": [own | {"state": {"terminated": ended}}],
        }
        self.cluster.patch(PODS, f"{pod['metadata']['name']}/status", {"status": status})

    def work(self, stage: str) -> None:
        """The stage's pod runs, does its work and ends well."""
        pod = self.pod(stage)
        self.cluster.patch(PODS, f"{pod['metadata']['name']}/status", {"status": {"phase": "Running"}})
        self.finish(stage)
        self.end(stage)

    def noted(self, reason: str) -> list[Event]:
        """The events with this reason."""
        return [event for event in events(self.store, self.lock.run_id) if event.facts.get("reason") == reason]

    def start(self, chain: Chain) -> "Running":
        """A driver in a thread."""
        return Running(self, chain)


class Running:
    """A driver in a thread; `join` gives what it raised, None when the chain is done."""

    def __init__(self, world: World, chain: Chain) -> None:
        self.stop = StopFlag()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(world, chain), daemon=True)
        self._thread.start()

    def _run(self, world: World, chain: Chain) -> None:
        try:
            drive(world.cluster, world.store, world.lock, chain, self.stop)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self._error = error

    def join(self) -> BaseException | None:
        """Wait for its end."""
        self._thread.join(120)
        assert not self._thread.is_alive(), "the driver goes on"
        return self._error


def until(look: Callable[[], Any], seconds: float = 90.0) -> Any:
    """The first thing that `look` gives which is not empty; a stage whose Job is not there yet is nothing."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            found = look()
        except KeyError:
            found = None
        if found:
            return found
        time.sleep(0.1)
    raise TimeoutError(f"nothing after {seconds} s")


def main() -> None:
    """A driver in a process of its own."""
    url, run, namespace, manifests = sys.argv[1:]
    store = Store(url)
    drive(connect(namespace), store, find_run(store, run), read_chain(Path(manifests)), StopFlag())


if __name__ == "__main__":
    main()
