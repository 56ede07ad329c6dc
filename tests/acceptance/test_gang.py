"""A training on two nodes, in pods of the project's own image: struck down, the gang starts again as a whole.

So it is however the chart makes the gang: as an Indexed Job, as a JobSet, as a step of an Argo Workflow.
"""

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from k8s.client import JOBSETS, PODS, WORKFLOWS, Cluster, Object
from k8s.helm import laid_over
from k8s.observer import RELEASE, RUN, STAGE
from pipeline.store.events import events
from pipeline.store.objects import Store
from pipeline.store.progress import read_metrics
from pipeline.store.runs import RunLock, read_run
from pipeline.store.standing import standing
from pipeline.training.checkpoints import StoredCheckpoints
from tests.acceptance.world import asked_for_well, common_values, fresh_namespace, give_images, state_of, wait
from tests.cluster.api import Api
from tests.cluster.conftest import api, cluster, object_store  # noqa: F401
from tests.cluster.processes import processes
from tests.conftest import use_s3
from tests.servers.s3 import S3Server
from tests.training import checkpoints
from tests.training.conftest import TINY, rows

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]
NODES = ("h100-0", "t4-0")
SETTINGS = {"base": {"input": "base"}, "max_steps": 30, "save_steps": 3, "logging_steps": 1}
PROFILE = {"precision": "fp32", "threads": 1, "nodes": 2, "processes": 1, "host_cpus": 0.1, "host_memory_gib": 3}
INDEX = "batch.kubernetes.io/job-completion-index"


@dataclass
class Training:
    """One release that trains on two nodes, in a store of its own."""

    here: Cluster
    store: Store
    release: str
    began: float = field(default_factory=time.monotonic)
    run: str = ""

    @property
    def lock(self) -> RunLock:
        """What the run means."""
        self.run = self.run or self.until(self.pods)[0]["metadata"]["labels"][RUN]
        return read_run(self.store, self.run)

    def pods(self, index: int | None = None) -> list[Object]:
        """The stage's pods, of one node's number or of both."""
        only = f",{INDEX}={index}" if index is not None else ""
        found = self.here.list(PODS, f"{RELEASE}={self.release},{STAGE}=phase1{only}")["items"]
        return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def saved(self) -> bool:
        """Whether a checkpoint is complete."""
        return bool(StoredCheckpoints(self.lock.directory(self.store, "phase1"), lambda: None, 2).complete())

    def is_done(self) -> bool:
        """Whether the stage is done."""
        return standing(self.store, self.lock, "phase1").done

    def state(self) -> str:
        """For whoever reads that it failed."""
        return f"{self.release}\n{state_of(self.here, self.store.url)}"

    def until(self, look: Callable[[], Any], seconds: float = 600.0) -> Any:
        """Wait for it."""
        return wait(look, seconds, self.state)

    def losses(self) -> dict[int, float]:
        """Loss by optimizer step; one that was taken twice was the same both times."""
        out: dict[int, float] = {}
        for record in read_metrics(self.lock.directory(self.store, "phase1")):
            if "loss" in record:
                assert out.setdefault(record["step"], record["loss"]) == record["loss"], record
        return out

    def adapter(self) -> dict[str, str]:
        """sha256 of every file of the adapter."""
        manifest = self.lock.directory(self.store, "phase1").manifest()
        assert manifest is not None
        return {part.name: part.sha256 for part in manifest.outputs["adapter"]}

    def ends(self, index: int) -> list[tuple[str, int]]:
        """Pod and exit code of each end of a node's process that the driver observed, oldest first."""
        found = [event for event in events(self.store, self.lock.run_id) if event.what == "observed"]
        number = re.compile(rf"-{index}-[a-z0-9]{{5}}$")
        return [(event.worker, event.exit_code or 0) for event in found if number.search(event.worker)]


Start = Callable[..., Training]


@pytest.fixture(scope="module")
def start(
    cluster: Path,  # noqa: F811
    api: Api,  # noqa: F811
    object_store: S3Server,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Start]:
    """start(release, gang, engine): `hanforge deploy chain` of one train stage on two nodes, all in one namespace."""
    for node in NODES:
        give_images(node, "data", "train")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(cluster))
        use_s3(patch, object_store.environment())
        with fresh_namespace(api, object_store.environment()) as here:
            yield Deployed(here, object_store.new_bucket(), tmp_path_factory.mktemp("gang")).start


@dataclass
class Deployed:
    """Where releases go: a namespace, a bucket, a folder for recipe, values and the tiny checkpoint that is trained."""

    here: Cluster
    bucket: str
    folder: Path

    def start(self, release: str, gang: str, engine: str = "jobs") -> Training:
        """See the fixture."""
        base, recipe, given = (self.folder / name for name in ("base", "gang.yaml", f"{release}.json"))
        if not base.exists():
            checkpoints.qwen3(base)
        stage = {**TINY, **SETTINGS, "profile": "cpu-core"}
        recipe.write_text(json.dumps({"name": "gang", "inputs": {"rows": {}, "base": {}}, "stages": {"phase1": stage}}))
        store = Store(f"s3://{self.bucket}/{release}")
        store.put("inputs/rows/data.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in rows(24)))
        for path in base.iterdir():
            store.upload(f"inputs/base/{path.name}", path)
        own: dict[str, Any] = {"gang": gang, "profiles": {"pair": PROFILE}, "profile": "pair"}
        own["env"] = [{"name": "HANFORGE_LEASE_SECONDS", "value": "10"}]  # how long a killed writer is waited for
        given.write_text(json.dumps(laid_over(common_values(store.url), own)))
        training = Training(self.here, store, release)
        words = ["--release", release, "-n", self.here.namespace, "-f", str(given), "--engine", engine]
        asked_for_well("deploy", "chain", str(recipe), "--store", store.url, *words)
        return training


@pytest.fixture(scope="module")
def whole(start: Start) -> Training:
    """The training that nothing disturbs; it is asked for here, and waited for in `check`."""
    return start("whole", "job")


def kill(training: Training) -> None:
    """SIGKILL to process 1 of the second node's pod, which ends all of its processes at once."""
    struck = training.pods(1)[-1]["metadata"]["name"]
    os.kill(first_process(training, 1), signal.SIGKILL)
    training.until(lambda: (struck, 137) in training.ends(1))


def delete(training: Training) -> None:
    """The first node's pod, which leads, is deleted: all save one checkpoint at the same step."""
    struck = training.pods(0)[-1]["metadata"]
    training.here.delete(PODS, struck["name"], struck["uid"])
    training.until(lambda: (struck["name"], 143) in training.ends(0))


def first_process(training: Training, index: int) -> int:
    """The machine's id of process 1 of the pod of a node's number."""
    wanted = {f"HANFORGE_STORE={training.store.url}".encode(), f"JOB_COMPLETION_INDEX={index}".encode()}
    for pid in processes("stage", "phase1"):
        own = Path(f"/proc/{pid}")
        status = (own / "status").read_text().splitlines()
        (numbers,) = [line.split()[1:] for line in status if line.startswith("NSpid:")]
        if numbers[-1] == "1" and wanted <= set((own / "environ").read_bytes().split(b"\0")):
            return pid
    pytest.fail(f"no process to kill\n{training.state()}")


def check(training: Training, whole: Training) -> None:
    """It ended as the undisturbed one did, after all of its pods had started again, from a checkpoint."""
    for each in (whole, training):
        each.until(each.is_done)
    print(f"{training.release}: done {time.monotonic() - training.began:.0f} s after it was asked for")
    assert len(whole.losses()) == SETTINGS["max_steps"]
    assert training.losses() == whole.losses() and training.adapter() == whole.adapter()
    directory = training.lock.directory(training.store, "phase1")
    logs = [training.store.read(entry.key) for entry in training.store.list(directory.key("logs"))]
    assert any(b"going on from the checkpoint" in log for log in logs)
    for index in (0, 1):
        ends = training.until(lambda index=index: [code for _, code in training.ends(index)])
        assert ends[0] in (1, 137, 143), (index, ends)


def test_two_nodes_train_and_a_strike_changes_no_byte(start: Start, whole: Training) -> None:
    killed, deleted = start("killed", "job"), start("deleted", "job")
    for training, strike in ((killed, kill), (deleted, delete)):
        training.until(training.saved)
        strike(training)
    check(killed, whole)
    check(deleted, whole)
    assert {pod["spec"]["nodeName"] for pod in whole.pods()} == set(NODES) and len(whole.pods()) == 2


def test_a_jobset_and_a_step_of_argo_start_the_gang_again(start: Start, whole: Training) -> None:
    for resource in (JOBSETS, WORKFLOWS):
        if not whole.here.serves(resource):
            pytest.skip(f"NO {resource}: the cluster has no such kind")
    jobset, argo = start("jobset", "jobset"), start("argo", "job", "argo")
    for training in (jobset, argo):
        training.until(training.saved)
        kill(training)
    check(jobset, whole)
    check(argo, whole)
    (made,) = whole.here.list(JOBSETS, f"{RELEASE}=jobset")["items"]
    assert made["status"]["restarts"] == 1
    argo.until(lambda: [flow["status"]["phase"] for flow in whole.here.list(WORKFLOWS)["items"]] == ["Succeeded"])
