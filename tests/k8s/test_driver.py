"""The driver against a real API server: order, adoption, kills, ends; the test or a real node plays the pods' part."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from k8s.client import JOBS, PODS
from k8s.driver import say_who
from pipeline.errors import GateRefused, Stopped, UserError
from pipeline.store.events import events
from tests.k8s.world import NEEDS, RELEASE, World, until

pytestmark = pytest.mark.cluster


def test_jobs_are_created_when_ready_and_done_stages_cost_none(world: World) -> None:
    chain = world.chain()
    world.finish("prepare_phase1")
    running = world.start(chain)
    until(lambda: world.jobs()["phase1"])
    assert set(world.jobs()) == {"phase1"}
    job = world.jobs()["phase1"]
    assert job["metadata"]["name"] == chain.job_name("phase1")
    assert [owner["uid"] for owner in job["metadata"]["ownerReferences"]] == [world.owner["metadata"]["uid"]]
    world.work("phase1")
    until(lambda: world.jobs()["merge1"])
    world.work("merge1")
    assert running.join() is None
    assert set(world.jobs()) == {"phase1", "merge1"}


@contextmanager
def driver_process(world: World) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-m", "tests.k8s.world", world.store.url, world.lock.run_id]
    process = subprocess.Popen([*command, world.cluster.namespace, str(world.manifests)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_driver_that_is_killed_is_followed_by_one_that_goes_on(world: World) -> None:
    world.chain()
    uids = {}
    for stage in NEEDS:
        with driver_process(world):
            uids[stage] = until(lambda stage=stage: world.jobs()[stage])["metadata"]["uid"]
            until(lambda stage=stage: any(event.stage == stage for event in world.noted("Unschedulable")))
        world.work(stage)
    with driver_process(world) as last:
        assert last.wait(60) == 0
    assert {stage: job["metadata"]["uid"] for stage, job in world.jobs().items()} == uids
    seen = [event.facts["seen"] for event in events(world.store, world.lock.run_id) if "seen" in event.facts]
    assert len(seen) == len(set(seen))
    assert {event.stage for event in world.noted("Completed")} == set(NEEDS)


def test_a_job_that_somebody_made_is_adopted(world: World) -> None:
    chain = world.chain(stages=("prepare_phase1",))
    made = world.cluster.create(JOBS, chain.job("prepare_phase1", world.owner))
    running = world.start(chain)
    world.work("prepare_phase1")
    assert running.join() is None
    assert [job["metadata"]["uid"] for job in world.cluster.list(JOBS)["items"]] == [made["metadata"]["uid"]]


@pytest.mark.parametrize(("code", "kind"), [(2, UserError), (3, GateRefused)])
def test_the_chain_ends_as_the_stage_did(world: World, code: int, kind: type[Exception]) -> None:
    chain = world.chain(f"echo 'prepare_phase1: mend the input' > /dev/termination-log; exit {code}")
    error = world.start(chain).join()
    assert type(error) is kind and str(error).startswith("prepare_phase1: mend the input")
    assert set(world.jobs()) == {"prepare_phase1"}
    assert [event.exit_code for event in world.noted("Error")] == [code]


def test_a_job_that_gave_up_ends_the_chain_with_its_reason(world: World) -> None:
    chain = world.chain("head -c 200m /dev/zero | tail", stages=("prepare_phase1",), backoffLimit=0)
    error = world.start(chain).join()
    assert isinstance(error, UserError) and "its Job gave up (exit code 137)" in str(error)
    assert "hanforge retry tiny" in error.remedy
    (killed,) = world.noted("OOMKilled")
    assert (killed.exit_code, killed.facts["memory_limit"]) == (137, "64Mi")


def test_passing_trouble_is_tried_again_by_the_job(world: World) -> None:
    chain = world.chain(stages=("prepare_phase1",))
    running = world.start(chain)
    world.end("prepare_phase1", 1, "the store is away", "Error")
    until(lambda: world.noted("Error"))
    world.work("prepare_phase1")
    assert running.join() is None


def test_what_waits_for_a_node_is_dropped_when_somebody_else_did_it(world: World) -> None:
    chain = world.chain(stages=("prepare_phase1",))
    running = world.start(chain)
    world.pod("prepare_phase1")
    world.finish("prepare_phase1")
    assert running.join() is None
    until(lambda: not world.jobs())


def test_after_a_failure_what_waits_is_dropped_and_what_runs_ends(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NEEDS, "phase1", [])
    monkeypatch.setitem(NEEDS, "merge1", [])
    running = world.start(world.chain())
    pod = world.pod("phase1")
    world.cluster.patch(PODS, f"{pod['metadata']['name']}/status", {"status": {"phase": "Running"}})
    world.pod("merge1")
    world.end("prepare_phase1", 2, "prepare_phase1: mend it", "Error")
    until(lambda: set(world.jobs()) == {"prepare_phase1", "phase1"})
    world.finish("phase1")
    world.end("phase1")
    assert str(running.join()).startswith("prepare_phase1: mend it")


def test_a_job_that_is_deleted_is_created_again(world: World) -> None:
    chain = world.chain(stages=("prepare_phase1",))
    running = world.start(chain)
    first = world.pod("prepare_phase1")
    world.cluster.delete(JOBS, chain.job_name("prepare_phase1"))
    until(lambda: world.pod("prepare_phase1")["metadata"]["uid"] != first["metadata"]["uid"])
    until(lambda: world.noted("PodDeleted"))
    world.work("prepare_phase1")
    assert running.join() is None


def test_a_job_that_ends_well_without_a_result_is_told(world: World) -> None:
    chain = world.chain(stages=("prepare_phase1",))
    running = world.start(chain)
    world.end("prepare_phase1")
    world.end("prepare_phase1")
    error = running.join()
    assert isinstance(error, UserError) and "ended well twice, but" in str(error)


def test_a_driver_that_is_asked_to_stop_leaves_the_jobs(world: World) -> None:
    running = world.start(world.chain())
    until(lambda: world.jobs())
    running.stop.request()
    assert isinstance(running.join(), Stopped)
    assert set(world.jobs()) == {"prepare_phase1"}


def test_an_image_that_is_not_there_is_noted(world: World) -> None:
    chain = world.chain("true", stages=("prepare_phase1",))
    chain.manifests["prepare_phase1"]["spec"]["template"]["spec"]["containers"][0]["image"] = "localhost:1/none:1"
    running = world.start(chain)
    (noted, *_) = until(lambda: world.noted("ErrImagePull") or world.noted("ImagePullBackOff"))
    assert noted.facts["image"] == "localhost:1/none:1" and noted.exit_code is None
    running.stop.request()
    running.join()


def test_the_run_says_once_which_release_works_on_it(world: World) -> None:
    chain = world.chain()
    for _ in range(2):
        say_who(world.store, chain, "somewhere", "tiny")
    (asked,) = [event for event in events(world.store, world.lock.run_id) if event.what == "asked for"]
    assert asked.facts["again"] == f"hanforge retry {RELEASE} --namespace somewhere"
    assert world.cluster.list(PODS)["items"] == []
