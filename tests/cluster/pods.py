"""Pods, Jobs and what came of them, for tests: plain dicts that pass the "restricted" Pod Security level."""

from collections.abc import Sequence
from typing import Any

from tests.cluster.api import Api, Object
from tests.cluster.build import BUSYBOX_IMAGE

RESTRICTED_POD = {"runAsNonRoot": True, "runAsUser": 8737, "seccompProfile": {"type": "RuntimeDefault"}}
RESTRICTED_CONTAINER = {
    "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True,
}  # fmt: skip
TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists"}


def pod_spec(script: str, node: str = "", limits: dict[str, str] | None = None, image: str = BUSYBOX_IMAGE) -> Object:
    """A pod's spec that runs a shell script once, on `node` where one is named."""
    limits = {"cpu": "200m", "memory": "64Mi", **(limits or {})}
    container = {
        "name": "main", "image": image, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script],
        "securityContext": RESTRICTED_CONTAINER,
        "resources": {"limits": limits, "requests": {**limits, "cpu": "10m"}},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }  # fmt: skip
    return {
        "restartPolicy": "Never", "securityContext": RESTRICTED_POD, "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}], "tolerations": [TOLERATION],
        "terminationGracePeriodSeconds": 2, "automountServiceAccountToken": False,
        **({"nodeSelector": {"kubernetes.io/hostname": node}} if node else {}),
    }  # fmt: skip


def pod(namespace: str, name: str, spec: Object, labels: dict[str, str] | None = None) -> Object:
    """A pod named `name`."""
    metadata = {"name": name, "namespace": namespace, "labels": labels or {}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def job(namespace: str, name: str, spec: Object, **settings: Any) -> Object:
    """A Job of such pods; `settings` go into its spec."""
    metadata = {"name": name, "namespace": namespace}
    template = {"metadata": {"labels": {"job": name}}, "spec": spec}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": template, **settings}}


def path(namespace: str, name: str) -> str:
    """A pod's API path."""
    return f"/api/v1/namespaces/{namespace}/pods/{name}"


def is_over(item: Object) -> bool:
    """Whether a pod has ended, well or not."""
    return item.get("status", {}).get("phase") in ("Succeeded", "Failed")


def conditions(item: Object) -> dict[str, Object]:
    """An object's true conditions by type."""
    return {one["type"]: one for one in item.get("status", {}).get("conditions", []) if one["status"] == "True"}


def job_is_over(item: Object) -> bool:
    """Whether a Job has ended, well or not."""
    return bool({"Complete", "Failed"} & set(conditions(item)))


def run(api: Api, namespace: str, name: str, spec: Object, timeout_seconds: float = 60) -> tuple[Object, str]:
    """Create a pod, wait until it has ended, and give it with its log."""
    api.create(pod(namespace, name, spec))
    ended = api.wait(path(namespace, name), is_over, timeout_seconds)
    return ended, api.get(f"{path(namespace, name)}/log")


def terminated(item: Object) -> Object:
    """How a pod's container ended: exitCode, reason."""
    state: Object = item["status"]["containerStatuses"][0]["state"]["terminated"]
    return state


def names(items: Sequence[Object]) -> list[str]:
    """The names of objects."""
    return [item["metadata"]["name"] for item in items]
