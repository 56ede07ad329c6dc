"""The Kubernetes API by path, objects as plain dicts, through the official client's connection and credentials."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes
import urllib3

Object = dict[str, Any]
GROUP_PATHS = {
    "Namespace": "namespaces", "ConfigMap": "configmaps", "Service": "services", "Pod": "pods", "Job": "jobs",
    "EndpointSlice": "endpointslices", "ServiceAccount": "serviceaccounts", "Role": "roles", "Secret": "secrets",
    "RoleBinding": "rolebindings", "ClusterRole": "clusterroles", "ClusterRoleBinding": "clusterrolebindings",
    "CustomResourceDefinition": "customresourcedefinitions", "Workflow": "workflows", "Deployment": "deployments",
    "Node": "nodes", "JobSet": "jobsets", "MutatingWebhookConfiguration": "mutatingwebhookconfigurations",
    "ValidatingWebhookConfiguration": "validatingwebhookconfigurations",
}  # fmt: skip
WITHOUT_NAMESPACE = {
    "Namespace", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "Node",
    "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration",
}  # fmt: skip


class Refused(Exception):
    """The API server said no. `status` is the HTTP code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


def path_of(item: Object, name: str | None = None) -> str:
    """The API path of an object's collection, or of the one named `name` in it.

    {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"namespace": "a"}} -> "/apis/batch/v1/namespaces/a/jobs"
    """
    version, kind = item["apiVersion"], item["kind"]
    parts = ["/apis" if "/" in version else "/api", version]
    if kind not in WITHOUT_NAMESPACE:
        parts += ["namespaces", item["metadata"]["namespace"]]
    return "/".join([*parts, GROUP_PATHS[kind], *([name] if name else [])])


class Api:
    """One cluster's API."""

    def __init__(self, kubeconfig: Path) -> None:
        self._client = kubernetes.config.new_client_from_config(str(kubeconfig))
        self.server: str = self._client.configuration.host

    def call(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Any:
        """Send one request and give the parsed answer (text where it is no JSON). Raises Refused."""
        headers = {"Content-Type": content_type, "Accept": "application/json"}
        if token := self._client.configuration.get_api_key_with_prefix("authorization"):
            headers["Authorization"] = token
        answer = self._client.rest_client.pool_manager.request(
            method, self.server + path, headers=headers, body=None if body is None else json.dumps(body),
            timeout=20, retries=False,
        )  # fmt: skip
        text = answer.data.decode()
        given = json.loads(text) if answer.headers.get("Content-Type", "").startswith("application/json") else text
        if answer.status >= 400:
            raise Refused(answer.status, given["message"] if isinstance(given, dict) else given)
        return given

    def ready(self) -> bool:
        """Whether the API server answers that it is ready."""
        try:
            return bool(self.call("GET", "/readyz") == "ok")
        except (Refused, urllib3.exceptions.HTTPError):
            return False

    def get(self, path: str) -> Any:
        """Read one path."""
        return self.call("GET", path)

    def create(self, item: Object) -> Object:
        """Create one object and give it as stored."""
        created: Object = self.call("POST", path_of(item), item)
        return created

    def apply(self, item: Object) -> None:
        """Create or change one object by server-side apply."""
        path = path_of(item, item["metadata"]["name"]) + "?fieldManager=cluster-up&force=true"
        self.call("PATCH", path, item, "application/apply-patch+yaml")

    def delete(self, path: str) -> None:
        """Delete what a path names, in the background."""
        self.call("DELETE", path, {"propagationPolicy": "Background"})

    def wait(self, path: str, met: Callable[[Object], bool], timeout_seconds: float = 120) -> Object:
        """Poll one object until `met(object)` and give it. Raises TimeoutError with its last status."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            item: Object = self.get(path)
            if met(item):
                return item
            if time.monotonic() > deadline:
                raise TimeoutError(f"{path} after {timeout_seconds} s: {json.dumps(item.get('status', item))[:2000]}")
            time.sleep(0.2)
