"""`deploy`, `stop`, `retry`, `status` and `why` against a real API server with the real chart and the real Helm.

The images are names that no node has, so that the driver's pod stands as a pod does whose image is missing.
"""

import threading
from pathlib import Path

import pytest
from typer.testing import Result

from k8s import control
from k8s.chain import is_over
from k8s.client import JOBS, PODS, WORKFLOWS, Cluster, Object
from k8s.driver import observe
from k8s.status import live, look
from k8s.why import explain
from pipeline.errors import UserError
from pipeline.reporting.why import reasons
from pipeline.store.events import events
from pipeline.store.stop import StopFlag
from tests.acceptance.world import hanforge
from tests.k8s.world import RELEASE, World, until

pytestmark = pytest.mark.cluster
VALUES = """\
tolerations: [{key: nvidia.com/gpu, operator: Exists}]
images: {data: "localhost:1/data:1", train: "localhost:1/train:1", serve: "localhost:1/serve:1"}
store: {url: "s3://bucket/store", secret: SECRET}
"""


@pytest.fixture
def values(tmp_path: Path) -> Path:
    """A values file without a Secret."""
    path = tmp_path / "values.yaml"
    path.write_text(VALUES.replace("SECRET", '""'))
    return path


def deploy(here: Cluster, values: Path, *words: str) -> Result:
    """Deploy demo's chain, without a look at a store that is not there."""
    return hanforge("deploy", "chain", "demo", "--unseen-store", "-n", here.namespace, "-f", str(values), *words)


def test_a_chain_is_deployed_upgraded_stopped_and_retried(here: Cluster, values: Path) -> None:
    assert deploy(here, values).exit_code == 0
    drivers = here.list(JOBS)["items"]
    assert [job["metadata"]["name"].rsplit("-", 1)[0] for job in drivers] == ["demo-driver"]
    until(lambda: "cannot be pulled" in hanforge("why", "--release", "demo", "-n", here.namespace).output)
    assert deploy(here, values, "--set", "phase2.learning_rate=1e-4").exit_code == 0
    until(lambda: [job["metadata"]["uid"] for job in here.list(JOBS)["items"]] != [drivers[0]["metadata"]["uid"]])
    assert hanforge("stop", "demo", "-n", here.namespace).exit_code == 0
    assert all(job["spec"]["suspend"] for job in here.list(JOBS)["items"])
    assert hanforge("retry", "demo", "-n", here.namespace).exit_code == 0
    assert not any(job["spec"].get("suspend") for job in here.list(JOBS)["items"])


def test_stop_deletes_open_jobs_and_retry_only_failed_ones(world: World) -> None:
    chain = world.chain(backoffLimit=0)
    for stage in ("prepare_phase1", "phase1"):
        world.cluster.create(JOBS, chain.job(stage, world.owner))
    world.end("phase1", 1, "away", "Error")
    until(lambda: is_over(world.jobs()["phase1"]))
    assert control.stop(world.cluster, RELEASE) == [chain.job_name("prepare_phase1")]
    assert set(world.jobs()) == {"phase1"}
    assert control.retry(world.cluster, RELEASE, ["merge1"]) == []
    assert control.retry(world.cluster, RELEASE, ["phase1"]) == [chain.job_name("phase1")]
    with pytest.raises(UserError, match="no release 'tinny'"):
        control.stop(world.cluster, "tinny")


def workflow(world: World, template: Object) -> Object:
    """A Workflow of the release that its controller does not start."""
    labels = {"app.kubernetes.io/instance": RELEASE, "hanforge.io/run": world.lock.run_id}
    spec = {"entrypoint": "chain", "suspend": True, "templates": [{"name": "chain"} | template]}
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": "flow", "namespace": world.cluster.namespace, "labels": labels},
        "spec": spec,
    }


def test_a_workflow_is_stopped_and_made_anew_and_observed_to_its_end(world: World) -> None:
    if not world.cluster.serves(WORKFLOWS):
        pytest.skip("NO ARGO: its definitions are not installed")
    chain = world.chain("echo 'prepare_phase1: mend it' > /dev/termination-log; exit 2", backoffLimit=0)
    world.cluster.create(WORKFLOWS, workflow(world, {"suspend": {}}))
    job = chain.job("prepare_phase1", world.owner)
    pod = {"metadata": {"name": "p", "labels": job["metadata"]["labels"]}, "spec": job["spec"]["template"]["spec"]}
    world.cluster.create(PODS, {"apiVersion": "v1", "kind": "Pod"} | pod)
    stop = StopFlag()
    observing = threading.Thread(target=observe, args=(world.cluster, world.store, chain, stop), daemon=True)
    observing.start()
    until(lambda: world.noted("Error"))
    assert [event.exit_code for event in world.noted("Error")] == [2]
    control.stop(world.cluster, RELEASE)
    until(lambda: not observing.is_alive())
    first = world.cluster.get(WORKFLOWS, "flow") or {}
    control.retry(world.cluster, RELEASE, [])
    again = world.cluster.get(WORKFLOWS, "flow") or {}
    assert again["metadata"]["uid"] != first["metadata"]["uid"] and "shutdown" not in again["spec"]


def test_a_driver_that_ended_is_made_anew(world: World) -> None:
    chain = world.chain(stages=("prepare_phase1",), backoffLimit=0)
    job = chain.job("prepare_phase1", world.owner)
    for labels in (job["metadata"]["labels"], job["spec"]["template"]["metadata"]["labels"]):
        labels["app.kubernetes.io/component"] = labels.pop("hanforge.io/stage", "driver")
    first = world.cluster.create(JOBS, job)
    pod = until(lambda: world.cluster.list(PODS)["items"])[0]
    world.cluster.patch(PODS, f"{pod['metadata']['name']}/status", {"status": {"phase": "Failed"}})
    name = job["metadata"]["name"]
    until(lambda: is_over(world.cluster.get(JOBS, name) or {}))
    control.retry(world.cluster, RELEASE, [])
    again = world.cluster.get(JOBS, name)
    assert again is not None and first is not None and again["metadata"]["uid"] != first["metadata"]["uid"]


def test_status_and_why_show_a_pending_pod_with_each_nodes_reason(world: World) -> None:
    chain = world.chain(stages=("prepare_phase1",))
    running = world.start(chain)
    until(lambda: world.noted("Unschedulable"))
    found = look(world.cluster, f"hanforge.io/run={world.lock.run_id}", set())
    assert found.pods == {"prepare_phase1": "Pending (Unschedulable)"}
    (line,) = [line for line in reasons(world.store, world.lock, explain, found.seen) if line.startswith("prepare_")]
    assert "no node takes its pod (Unschedulable): 0/2 nodes are available" in line
    assert "t4-0: label hanforge.test/node is missing, wants 'none'" in line
    running.stop.request()
    running.join()


def test_why_works_after_the_pods_are_gone(world: World) -> None:
    chain = world.chain("head -c 200m /dev/zero | tail", stages=("prepare_phase1",), backoffLimit=0)
    world.start(chain).join()
    world.cluster.delete(JOBS, chain.job_name("prepare_phase1"))
    until(lambda: not world.cluster.list(PODS)["items"])
    line = reasons(world.store, world.lock, explain)[0]
    assert "killed for want of memory at its limit of 64Mi (OOMKilled, exit code 137)" in line


def test_a_run_of_this_machine_asks_no_cluster(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    found = live(world.lock.run_id, events(world.store, world.lock.run_id))
    assert (found.pods, found.seen, found.note) == ({}, [], "")
