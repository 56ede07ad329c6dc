"""Sentences from what the cluster showed, read from pod and event shapes as the API documents them."""

from typing import Any

import pytest

from k8s.client import JOBS, PODS, Object
from k8s.observer import observations, of_event
from k8s.why import explain
from pipeline.store.events import Event

LABELS = {"hanforge.io/run": "demo-1-0", "hanforge.io/stage": "phase1"}
STAMP = "2026-11-22T10:00:00Z"


def pod(status: Object, limit: str = "2Gi") -> Object:
    containers = [{"name": "stage", "resources": {"limits": {"memory": limit}}}]
    metadata = {"name": "demo-phase1-x", "uid": "u1", "labels": LABELS}
    return {"metadata": metadata, "spec": {"containers": containers, "nodeName": "n0"}, "status": status}


def ended(reason: str, code: int, message: str = "", name: str = "stage") -> Object:
    terminated = {"reason": reason, "exitCode": code, "message": message, "finishedAt": STAMP}
    return {"containerStatuses": [{"name": name, "image": "i", "state": {"terminated": terminated}}]}


def waiting(reason: str, message: str) -> Object:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"containerStatuses": [{"name": "stage", "image": "reg/data:1", "state": state}]}


def condition(kind: str, status: str, reason: str, message: str) -> Object:
    return {"conditions": [{"type": kind, "status": status, "reason": reason, "message": message}]}


@pytest.mark.parametrize(
    ("status", "cause", "remedy"),
    [
        (
            ended("OOMKilled", 137),
            "its process was killed for want of memory at its limit of 2Gi (OOMKilled, exit code 137)",
            "host_memory_gib (or stages.phase1.memory)",
        ),
        (
            waiting("ImagePullBackOff", "Back-off pulling image"),
            "image reg/data:1 cannot be pulled (ImagePullBackOff): Back-off pulling image",
            "images.pullSecrets",
        ),
        (
            condition("PodScheduled", "False", "Unschedulable", "0/2 nodes are available: 2 Insufficient memory."),
            "no node takes its pod (Unschedulable): 0/2 nodes are available: 2 Insufficient memory.",
            "--profile",
        ),
        (
            condition("DisruptionTarget", "True", "DeletionByTaintManager", "Taint manager: deleting due to NoExecute"),
            "its pod was taken away (DeletionByTaintManager): Taint manager: deleting due to NoExecute",
            "again",
        ),
        (
            {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."},
            "its pod was taken away (Evicted): The node was low on resource: memory.",
            "again",
        ),
        (
            waiting("CreateContainerConfigError", 'secret "s3" not found'),
            'its container cannot be made (CreateContainerConfigError): secret "s3" not found',
            "Create what is missing",
        ),
    ],
)
def test_a_pods_state_becomes_cause_and_remedy(status: Object, cause: str, remedy: str) -> None:
    (seen,) = observations(PODS, pod(status))
    told = explain([seen.event()], "again")
    assert told is not None and told[0] == cause and remedy in told[1]


def test_a_job_that_may_not_make_pods_is_told() -> None:
    job = {"metadata": {"name": "j", "uid": "u2", "labels": LABELS}}
    event = {"type": "Warning", "reason": "FailedCreate", "message": "violates PodSecurity", "metadata": {}}
    seen = of_event(event, job)
    assert seen is not None and seen.stage == "phase1"
    told = explain([seen.event()], "again")
    assert told is not None and told[0].endswith("(FailedCreate): violates PodSecurity")


def test_an_exit_code_carries_its_last_words_and_comes_behind_the_processes_own() -> None:
    (seen,) = observations(PODS, pod(ended("Error", 2, "phase1: mend the input")))
    assert (seen.what, seen.exit_code, seen.message) == ("observed", 2, "mend the input")
    assert seen.at == 1795341600.999
    assert explain([seen.event()], "again") is None  # the process said it itself


def test_the_end_of_a_sidecar_is_not_the_stages() -> None:
    (seen,) = observations(PODS, pod(ended("OOMKilled", 137, name="engine")))
    assert (seen.what, seen.exit_code) == ("noted", None)
    told = explain([seen.event()], "again")
    assert told is not None and told[0].startswith("container 'engine' beside it was killed for want of memory")


def test_what_was_before_the_process_spoke_is_over() -> None:
    (noted,) = observations(PODS, pod(waiting("ImagePullBackOff", "")))
    started = Event(noted.event().time + 60, "phase1", "started", "w", None, "", {})
    assert explain([noted.event(), started], "again") is None


def test_a_pod_that_goes_before_it_ended_is_noted_and_one_that_ended_is_not() -> None:
    assert [seen.reason for seen in observations(PODS, pod({}), deleted=True)] == ["PodDeleted"]
    assert [seen.reason for seen in observations(PODS, pod(ended("Error", 1)), deleted=True)] == ["Error"]


def test_identities_are_the_same_each_time_and_ignore_a_schedulers_counts() -> None:
    def seen(message: str) -> list[str]:
        status = condition("PodScheduled", "False", "Unschedulable", message)
        return [each.identity for each in observations(PODS, pod(status))]

    assert seen("0/2 nodes are available") == seen("0/3 nodes are available") != seen("no GPU")


@pytest.mark.parametrize("other", [{}, {"app": "x"}])
def test_what_is_not_of_a_run_is_not_observed(other: dict[str, Any]) -> None:
    job = {"metadata": {"name": "j", "uid": "u", "labels": other}, "status": condition("Failed", "True", "x", "y")}
    assert observations(JOBS, job) == []
