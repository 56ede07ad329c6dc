"""A Deployment of the hanforge-serve chart, made to serve a promotion: its pods' annotation says which."""

import time
from collections.abc import Callable

from k8s.client import DEPLOYMENTS, Cluster, Object
from pipeline.errors import Stopped, Trouble, UserError

LOOK_SECONDS = 2.0


def follow_promotion(cluster: Cluster, deployment: str, n: int) -> bool:
    """Roll a serving Deployment to promotion n by its pods' one annotation; False when it is not there."""
    template = {"metadata": {"annotations": {"hanforge.io/promotion": str(n)}}}
    return cluster.patch(DEPLOYMENTS, deployment, {"spec": {"template": template}}) is not None


def roll_out(cluster: Cluster, deployment: str, n: int, stop_requested: Callable[[], bool]) -> None:
    """Return when every pod of the Deployment serves promotion n. UserError when there is none, Trouble when they do
    not come up within its `progressDeadlineSeconds`, Stopped when `stop_requested()` turns true meanwhile."""
    if not follow_promotion(cluster, deployment, n):
        raise UserError(
            f"Deployment {deployment!r} is not in namespace {cluster.namespace!r}",
            "Deploy it: make deploy-serve, or correct serve.deployment",
        )
    while not _is_rolled_out(found := cluster.get(DEPLOYMENTS, deployment) or {}):
        for condition in found.get("status", {}).get("conditions") or ():
            if condition.get("reason") == "ProgressDeadlineExceeded" and _is_seen(found):
                raise Trouble(
                    f"Deployment {deployment!r} does not come up with promotion {n}: {condition.get('message', '')}",
                    f"kubectl describe pods --selector app.kubernetes.io/instance={deployment}",
                )
        if stop_requested():
            raise Stopped(f"stopped on request while promotion {n} was rolling out")
        time.sleep(LOOK_SECONDS)


def _is_seen(found: Object) -> bool:
    """Whether the status is about the newest specification."""
    return int(found.get("status", {}).get("observedGeneration", 0)) >= int(found["metadata"]["generation"])


def _is_rolled_out(found: Object) -> bool:
    """As `kubectl rollout status` sees it: all pods are of the newest template and available, none is left over."""
    if not found or not _is_seen(found):
        return False
    status, wanted = found["status"], found["spec"].get("replicas", 1)
    counts = [status.get(name, 0) for name in ("updatedReplicas", "replicas", "availableReplicas")]
    return bool(counts == [wanted] * 3)
