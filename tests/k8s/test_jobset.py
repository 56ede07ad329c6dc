"""A JobSet is made, adopted, followed and deleted like a Job; its controller plays its part, the test the kubelet's."""

import json
from typing import Any

import pytest

from k8s import control
from k8s.chain import Chain, read_chain
from k8s.client import JOBS, JOBSETS
from k8s.status import look
from pipeline.errors import Stopped, UserError
from tests.k8s.world import RELEASE, World, until

pytestmark = pytest.mark.cluster
STAGE = "prepare_phase1"


@pytest.fixture
def chain(world: World) -> Chain:
    """A chain of one stage, whose Job is in a JobSet with the rules that the chart gives it."""
    if not world.cluster.serves(JOBSETS):
        pytest.skip("NO JOBSET: its controller is not installed")
    job: dict[str, Any] = world.chain(stages=(STAGE,)).manifests[STAGE]
    final = {"name": "mend", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    template = {"metadata": {"labels": job["metadata"]["labels"]}, "spec": {**job["spec"], "backoffLimit": 0}}
    spec = {
        "successPolicy": {"operator": "All"},
        "failurePolicy": {"maxRestarts": 2, "rules": [final]},
        "replicatedJobs": [{"name": "gang", "replicas": 1, "template": template}],
    }
    jobset = {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": job["metadata"], "spec": spec}
    (world.manifests / f"{STAGE}.json").write_text(json.dumps(jobset))
    return read_chain(world.manifests)


def uids(world: World) -> list[str]:
    return [item["metadata"]["uid"] for item in world.cluster.list(JOBSETS)["items"]]


def test_a_jobset_is_made_adopted_and_ends_with_its_stage(world: World, chain: Chain) -> None:
    running = world.start(chain)
    world.pod(STAGE)
    made = uids(world)
    running.stop.request()
    assert isinstance(running.join(), Stopped)
    running = world.start(chain)
    world.end(STAGE, 1, "passing trouble", "Error")
    until(lambda: world.cluster.list(JOBSETS)["items"][0]["status"].get("restarts") == 1)
    world.work(STAGE)
    assert running.join() is None and uids(world) == made and len(made) == 1


def test_exit_code_2_ends_a_jobset_at_once_and_retry_makes_it_anew(world: World, chain: Chain) -> None:
    running = world.start(chain)
    world.end(STAGE, 2, f"{STAGE}: mend it", "Error")
    error = running.join()
    assert isinstance(error, UserError) and str(error).startswith(f"{STAGE}: mend it")
    assert control.retry(world.cluster, RELEASE, []) == [chain.job_name(STAGE)]
    until(lambda: not world.cluster.list(JOBS)["items"])
    running = world.start(chain)
    world.pod(STAGE)
    assert look(world.cluster, f"app.kubernetes.io/instance={RELEASE}", set()).pods[STAGE]
    running.stop.request()
    running.join()
    assert control.stop(world.cluster, RELEASE) == [chain.job_name(STAGE)] and uids(world) == []
