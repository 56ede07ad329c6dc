"""A serve stage's Deployment, rolled to a promotion on a real cluster."""

import pytest

from k8s.client import DEPLOYMENTS, PODS, Cluster, Object
from k8s.serving import roll_out
from pipeline.errors import Stopped, Trouble, UserError
from tests.cluster.pods import pod_spec

LABELS = {"app": "serve"}


def deployment(cluster: Cluster, **spec: object) -> Object:
    """A Deployment of two pods that only sleep, created."""
    pod = {**pod_spec("trap 'exit 0' TERM; sleep 1000 & wait"), "restartPolicy": "Always", **spec}
    template = {"metadata": {"labels": LABELS, "annotations": {"hanforge.io/promotion": "1"}}, "spec": pod}
    body = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "serve"},
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
    pods = [pod for pod in here.list(PODS, "app=serve")["items"] if "deletionTimestamp" not in pod["metadata"]]
    assert [pod["metadata"]["annotations"]["hanforge.io/promotion"] for pod in pods] == ["3", "3"]
    roll_out(here, "serve", 3, lambda: False)  # again: nothing to do


def test_what_does_not_come_up_is_said(here: Cluster) -> None:
    deployment(here, nodeSelector={"hanforge.test/node": "none"})
    with pytest.raises(Stopped):
        roll_out(here, "serve", 2, lambda: True)
    with pytest.raises(Trouble, match="does not come up with promotion 2"):
        roll_out(here, "serve", 2, lambda: False)
    with pytest.raises(UserError, match="Deployment 'another' is not in namespace"):
        roll_out(here, "another", 2, lambda: False)
