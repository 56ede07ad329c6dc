"""A serving Deployment, rolled to a promotion on a real cluster; what is said of pods that do not serve."""

from typing import Any

import pytest

from k8s.client import DEPLOYMENTS, PODS, Cluster, Object
from k8s.serving import roll_out, serving_reasons, state_of
from pipeline.errors import Stopped, Trouble, UserError
from tests.cluster.pods import pod_spec

LABELS = {"app.kubernetes.io/name": "hanforge-serve", "app.kubernetes.io/instance": "serve"}


def deployment(cluster: Cluster, **spec: object) -> Object:
    """A Deployment of two pods that only sleep, created."""
    pod = {**pod_spec("trap 'exit 0' TERM; sleep 1000 & wait"), "restartPolicy": "Always", **spec}
    template = {"metadata": {"labels": LABELS, "annotations": {"hanforge.io/promotion": "1"}}, "spec": pod}
    body = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "serve", "labels": LABELS},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": LABELS},
            "template": template,
            "progressDeadlineSeconds": 8,
        },
    }
    created = cluster.create(DEPLOYMENTS, body)
    assert created is not None
    return created


def test_it_returns_when_every_pod_follows(here: Cluster) -> None:
    deployment(here)
    roll_out(here, "serve", 3, lambda: False)
    pods = [
        pod
        for pod in here.list(PODS, "app.kubernetes.io/instance=serve")["items"]
        if "deletionTimestamp" not in pod["metadata"]
    ]
    assert [pod["metadata"]["annotations"]["hanforge.io/promotion"] for pod in pods] == ["3", "3"]
    roll_out(here, "serve", 3, lambda: False)  # again: nothing to do


def test_what_does_not_come_up_is_said(here: Cluster) -> None:
    deployment(here, nodeSelector={"hanforge.test/node": "none"})
    with pytest.raises(Stopped):
        roll_out(here, "serve", 2, lambda: True)
    with pytest.raises(Trouble, match="does not come up with promotion 2: serve-.*no node takes it"):
        roll_out(here, "serve", 2, lambda: False)
    first, *pods = serving_reasons(here, "serve")
    assert first == "serve: promotion 2 is not served by all yet; 0 of 2 pods answer meanwhile"
    assert "no node takes it" in pods[0] and "choose another profile" in pods[0]
    assert serving_reasons(here, "another") == []
    with pytest.raises(UserError, match="Deployment 'another' is not in namespace"):
        roll_out(here, "another", 2, lambda: False)


def test_a_pod_that_ends_at_once_is_not_waited_for(here: Cluster) -> None:
    spec = pod_spec("echo 'error: promotion 4 is damaged. Merge again' >&2; exit 2")
    spec["containers"][0]["terminationMessagePolicy"] = "FallbackToLogsOnError"
    deployment(here, containers=spec["containers"])
    with pytest.raises(UserError, match=r"promotion 4 does not come up: pod serve-.*code 2: promotion 4 is damaged"):
        roll_out(here, "serve", 4, lambda: False)


def pod(own: dict[str, Any], phase: str = "Running") -> Object:
    limits = {"limits": {"memory": "6Gi"}}
    return {
        "metadata": {"name": "p", "namespace": "n"},
        "spec": {"nodeName": "gpu-0", "containers": [{"resources": limits}]},
        "status": {"phase": phase, "containerStatuses": [{"image": "i", "ready": False, "restartCount": 0, **own}]},
    }


def ended(code: int, message: str = "", reason: str = "Error") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


@pytest.mark.parametrize(
    ("own", "words", "final"),
    [
        ({"state": {"running": {}}}, "fetches and loads the model on gpu-0", False),
        ({"state": {"running": {}}, "ready": True}, "ready", False),
        ({"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no"}}}, "image i cannot be pulled", True),
        ({"state": {"waiting": {"reason": "CreateContainerConfigError", "message": "no key"}}}, "no key", True),
        ({"state": {"running": {}}, "lastState": ended(137, reason="OOMKilled"), "restartCount": 1}, "at 6Gi", True),
        ({"state": {"running": {}}, "lastState": ended(0), "restartCount": 1}, "not ready within startupSeconds", True),
        ({"state": {"running": {}}, "lastState": ended(1, "x\nerror: a. b\n"), "restartCount": 1}, "1: a. b", False),
        ({"state": {"running": {}}, "lastState": ended(1, "OSError: c"), "restartCount": 2}, "OSError: c", True),
    ],
)
def test_a_pod_in_words(own: dict[str, Any], words: str, final: bool) -> None:
    found = state_of(pod(own))
    assert words in f"{found.words} {found.cause}" and found.final is final and bool(found.remedy) == bool(found.cause)
