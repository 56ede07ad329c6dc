"""The demo's chain on the cluster: one release of it in one store, and the state that one proof leaves to the next.

The recipe is the shipped one, smaller by `--set`: fewer rows for the teacher to answer and fewer optimizer steps.
Data stages run on t4-0; whatever wants the images of torch runs on h100-0, so that one node alone needs them.
"""

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from k8s.client import JOBS, PODS, WORKFLOWS, Cluster, Object
from k8s.helm import laid_over
from k8s.observer import RELEASE, RUN, STAGE
from pipeline.store.objects import Store
from pipeline.store.runs import RunLock, read_run
from pipeline.store.standing import standing
from tests.acceptance.world import asked_for_well, common_values, state_of, wait
from tests.cluster.layout import ROOT

DATA_NODE, TORCH_NODE = "t4-0", "h100-0"
DATA = ("prepare", "prepare_reasoning", "prepare_worked", "validate")
STAGES = (
    "prepare", "prepare_reasoning", "prepare_worked", "teacher", "merge_teacher", "augment", "validate",
    "phase1", "merge1", "phase2", "merge2",
)  # fmt: skip
SMALLER = (
    "prepare.target_samples=600",
    "prepare.sources.cap.amr_dialogue_data=300",
    "teacher.max_steps=250",
    "augment.sample_ratio=0.2",
    "validate.limits.min_rows=50",
    "validate.limits.min_pass_rate=0.5",
    "phase1.max_steps=160",
    "phase1.save_steps=20",
    "phase2.max_steps=60",
    "phase2.save_steps=20",
)
LEASE_SECONDS = "10"  # how long a writer that was killed is waited for; 60 by default
CHAIN_SECONDS = 900.0
DRIVER = "app.kubernetes.io/component=driver"


@dataclass
class Leg:
    """Releases of the demo in one namespace on one store. `only`: the stages in scope."""

    here: Cluster
    store: Store
    folder: Path
    only: tuple[str, ...] = STAGES
    runs: dict[str, str] = field(default_factory=dict)  # release -> its run
    ended: list[RunLock] = field(default_factory=list)  # runs whose stages in scope are all done, oldest first

    def deploy(self, release: str, *sets: str, engine: str = "jobs") -> None:
        """`hanforge deploy chain demo` under this name; `sets` come after those that make it smaller."""
        values = self.folder / f"{release}-values.yaml"
        values.write_text(json.dumps(laid_over(common_values(self.store.url), self._placed())))
        words = [word for each in (*SMALLER, *sets) for word in ("--set", each)]
        words += ["--release", release, "-n", self.here.namespace, "-f", str(values), "--engine", engine]
        asked_for_well("deploy", "chain", "demo", *words)
        self.runs[release] = str(self._newest(release, engine)["metadata"]["labels"][RUN])

    def _placed(self) -> dict[str, Any]:
        near = {"node_labels": {"kubernetes.io/hostname": TORCH_NODE}}
        data = {"precision": "fp32", "threads": 2, "host_cpus": 1, "host_memory_gib": 2}
        data["node_labels"] = {"kubernetes.io/hostname": DATA_NODE}
        return {
            "only": list(self.only),
            "profiles": {"cpu": near, "cpu-core": near, "data-node": data},
            "stages": {name: {"profile": "data-node"} for name in DATA if name in self.only},
            "env": [{"name": "HANFORGE_LEASE_SECONDS", "value": LEASE_SECONDS}],
        }

    def lock(self, release: str) -> RunLock:
        """The run that the release works on, once its driver has pinned it."""
        return read_run(self.store, self.runs[release])

    def _newest(self, release: str, engine: str) -> Object:
        """What runs the release: its driver's Job, or its Workflow."""
        which = (JOBS, f"{RELEASE}={release},{DRIVER}") if engine == "jobs" else (WORKFLOWS, f"{RELEASE}={release}")
        found = self.here.list(*which)["items"]
        assert found, f"release {release} has nothing that runs it"
        return max(found, key=lambda item: str(item["metadata"]["creationTimestamp"]))

    def finish(self, release: str, engine: str = "jobs") -> RunLock:
        """Wait until the release has ended, and give its run, all done; fails with what is wrong."""

        def over() -> bool:
            status = self._newest(release, engine).get("status") or {}
            ended = any(each["type"] in ("Complete", "Failed") for each in status.get("conditions") or ())
            return ended if engine == "jobs" else status.get("phase") in ("Succeeded", "Failed", "Error")

        wait(over, CHAIN_SECONDS, lambda: self.state(release))
        lock = self.lock(release)
        unfinished = [name for name in self.only if not standing(self.store, lock, name).done]
        if unfinished:
            pytest.fail(f"{release} ended without {', '.join(unfinished)}\n{self.state(release)}")
        self.ended.append(lock)
        return lock

    def state(self, release: str) -> str:
        """What a reader of a failure wants to see."""
        return state_of(self.here, self.store.url, self.runs[release])

    def pods(self, release: str, stage: str) -> list[Object]:
        """The release's pods of a stage that are there still."""
        chosen = f"{RELEASE}={release},{STAGE}={stage},{RUN}={self.runs[release]}"
        return list(self.here.list(PODS, chosen)["items"])

    def jobs(self, release: str, run: str) -> list[str]:
        """The stages for which the release has Jobs in a run."""
        found = self.here.list(JOBS, f"{RELEASE}={release},{RUN}={run},{STAGE}")["items"]
        return sorted(str(job["metadata"]["labels"][STAGE]) for job in found)


def bring_inputs(store: Store) -> None:
    """The demo's own inputs, made by its own script."""
    words = [sys.executable, "examples/demo/run.py", "--inputs-only", "--store", store.url]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def copy(source: Store, target: Store, *prefixes: str) -> None:
    """Copy every object below the prefixes, under the same keys."""
    for prefix in prefixes:
        entries = source.list(prefix)
        assert entries, f"nothing lies at {source.url}/{prefix}"
        for entry in entries:
            target.create(entry.key, source.read(entry.key))


def contents(store: Store, lock: RunLock, stages: tuple[str, ...] = STAGES) -> dict[str, Any]:
    """By stage and output: one hash over all bytes, and the counts. Every object is read and held to its sha256."""
    found: dict[str, Any] = {}
    for name in stages:
        manifest = lock.directory(store, name).manifest()
        assert manifest is not None, f"{name} has no manifest in {store.url}"
        for parts in manifest.outputs.values():
            for part in parts:
                assert hashlib.sha256(store.read(part.key)).hexdigest() == part.sha256, part.key
        outputs = {output: manifest.content(output) for output in sorted(manifest.outputs)}
        found[name] = {**outputs, "counts": manifest.counts.plain()}
    return found
