"""The cluster's API: the official kubernetes client, its requests typed here, every object a plain dict from here on.

What the server refuses becomes an error that names the verb and the resource; passing trouble is retried by the store's
one policy. The client library is imported when a connection is made, not before.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError
from pipeline.store.retry import retried

Object = dict[str, Any]
CONNECT_SECONDS, READ_SECONDS = 5.0, 30.0
WATCH_SECONDS = 240  # the server ends a watch after so long; the next one goes on from there
PASSING = (429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Resource:
    """A kind of object as RBAC and paths name it. Example: jobs of group batch -> /apis/batch/v1/.../jobs"""

    name: str
    group: str = ""
    version: str = "v1"
    namespaced: bool = True

    def __str__(self) -> str:
        return f"{self.name}.{self.group}" if self.group else self.name

    def path(self, namespace: str, name: str = "") -> str:
        """The URL's path of the collection, or of one object."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        inside = f"{root}/namespaces/{namespace}/{self.name}" if self.namespaced else f"{root}/{self.name}"
        return f"{inside}/{name}" if name else inside


PODS, EVENTS, CONFIGMAPS, SECRETS = Resource("pods"), Resource("events"), Resource("configmaps"), Resource("secrets")
SERVICE_ACCOUNTS, SERVICES = Resource("serviceaccounts"), Resource("services")
NODES, NAMESPACES = Resource("nodes", namespaced=False), Resource("namespaces", namespaced=False)
JOBS, DEPLOYMENTS = Resource("jobs", "batch"), Resource("deployments", "apps")
JOBSETS = Resource("jobsets", "jobset.x-k8s.io", "v1alpha2")
ROLES = Resource("roles", "rbac.authorization.k8s.io")
ROLE_BINDINGS = Resource("rolebindings", "rbac.authorization.k8s.io")
WORKFLOWS = Resource("workflows", "argoproj.io", "v1alpha1")
LOCAL_QUEUES = Resource("localqueues", "kueue.x-k8s.io", "v1beta2")
ACCESS_REVIEWS = Resource("selfsubjectaccessreviews", "authorization.k8s.io", namespaced=False)


class Gone(Exception):
    """The server forgot the resource version to go on from (HTTP 410): list again."""


class Passing(OSError):
    """The server is away, overloaded or restarting: the same request can work later."""


class Cluster:
    """One connection: `api` is the library's ApiClient, `namespace` where everything of this process lies."""

    def __init__(self, api: Any, namespace: str) -> None:
        self._api = api
        self.namespace = namespace
        self.host: str = api.configuration.host

    def get(self, resource: Resource, name: str) -> Object | None:
        """The object, None when there is none."""
        return self._ask("get", resource, "GET", name, missing=True)

    def list(self, resource: Resource, selector: str = "", fields: str = "") -> Object:
        """Every object that the label and field selectors match: {"metadata": {"resourceVersion"}, "items": [...]}"""
        found = self._ask("list", resource, "GET", query=_selecting(selector, fields)) or {}
        kind = {"apiVersion": found["apiVersion"], "kind": found["kind"].removesuffix("List")}
        found["items"] = [kind | item for item in found["items"]]  # a list leaves out what all its items are
        return found

    def create(self, resource: Resource, body: Object, dry_run: bool = False) -> Object | None:
        """Create the object; None when one of its name is there (HTTP 409)."""
        query = {"dryRun": "All"} if dry_run else {}
        return self._ask("create", resource, "POST", body=body, query=query, conflict=True)

    def delete(self, resource: Resource, name: str, uid: str = "") -> bool:
        """Delete the object (with `uid`: that one alone) and what it owns; False when it is not there."""
        body: Object = {"propagationPolicy": "Background"}
        if uid:
            body["preconditions"] = {"uid": uid}
        return self._ask("delete", resource, "DELETE", name, body=body, missing=True, conflict=True) is not None

    def patch(self, resource: Resource, name: str, body: Object) -> Object | None:
        """Merge `body` into the object (RFC 7386); None when it is not there."""
        return self._ask("patch", resource, "PATCH", name, body=body, missing=True)

    def allowed(self, verb: str, resource: Resource) -> bool:
        """Whether this user may do that, here, by the server's own word (SelfSubjectAccessReview)."""
        group, _, sub = resource.name.partition("/")
        asked = {"verb": verb, "group": resource.group, "resource": group, "subresource": sub}
        if resource.namespaced:
            asked["namespace"] = self.namespace
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        answer = self._ask("create", ACCESS_REVIEWS, "POST", body=body) or {}
        return bool(answer.get("status", {}).get("allowed"))

    def serves(self, resource: Resource) -> bool:
        """Whether the server knows this kind of object: for CRDs, whether they are installed."""
        path = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
        raw = retried(f"looking for {resource}", lambda: self._send("GET", path))
        if raw.status == 404:
            return False
        self._check(raw.status, raw.data, "get", resource, "")
        return any(item["name"] == resource.name for item in json.loads(raw.data)["resources"])

    def version(self) -> str:
        """The server's version, as the shortest question to it."""
        raw = retried(f"asking {self.host}", lambda: self._send("GET", "/version"))
        try:
            return str(json.loads(raw.data)["gitVersion"])
        except (ValueError, KeyError, TypeError):
            self._check(raw.status if raw.status in (401, 403) else 200, raw.data, "get", Resource("version"), "")
            raise UserError(
                f"{self.host} answers, but is no Kubernetes API server (HTTP {raw.status}: {_message(raw.data)[:80]})",
                "Correct the server's address in the kubeconfig",
            ) from None

    def watch(self, resource: Resource, version: str, selector: str = "", fields: str = "") -> Iterator[Object]:
        """Changes after `version` as {"type", "object"}, until the server ends it; raises Gone, Passing, UserError."""
        query = {
            **_selecting(selector, fields),
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        response = self._send("GET", resource.path(self.namespace), query, stream=True)
        with response.response as stream:
            if response.status != 200:
                self._check(response.status, stream.read(), "watch", resource, "")
            for line in _lines(stream):
                change = json.loads(line)
                if change["type"] == "ERROR":
                    status = change["object"]
                    self._check(int(status.get("code") or 500), json.dumps(status).encode(), "watch", resource, "")
                yield change

    def _ask(
        self,
        verb: str,
        resource: Resource,
        method: str,
        name: str = "",
        query: dict[str, str] | None = None,
        body: Object | None = None,
        missing: bool = False,
        conflict: bool = False,
    ) -> Object | None:
        """One request with retries; None for what `missing` (404) and `conflict` (409) allow."""
        path = resource.path(self.namespace, name)

        def call() -> Object | None:
            raw = self._send(method, path, query or {}, body)
            if (missing and raw.status == 404) or (conflict and raw.status == 409):
                return None
            self._check(raw.status, raw.data, verb, resource, name)
            found: Object = json.loads(raw.data)
            return found

        return retried(f"{verb} {resource} in {self.host}", call)

    def _send(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: Object | None = None,
        stream: bool = False,
    ) -> Any:
        """The library's raw response; connection trouble is Passing, a certificate that does not fit UserError."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/merge-patch+json" if method == "PATCH" else "application/json"
        request = self._api.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            limits = (CONNECT_SECONDS, WATCH_SECONDS if stream else READ_SECONDS)
            raw = self._api.call_api(*request, _request_timeout=limits)
            if not stream:
                raw.read()
        except ApiException as error:
            raise UserError(
                f"{self.host}: the certificates of the cluster and of the kubeconfig do not fit: {error.reason}",
                "Correct certificate-authority-data and the client's certificate in the kubeconfig",
            ) from error
        except HTTPError as error:
            raise Passing(f"{self.host} does not answer: {error}") from error
        return raw

    def _check(self, status: int, data: bytes, verb: str, resource: Resource, name: str) -> None:
        """Nothing for success; else the error that says what the server refused."""
        if 200 <= status < 300:
            return
        said = _message(data)
        what = f"{verb} {resource}{f' {name!r}' if name else ''} in namespace {self.namespace!r}"
        if status == 410:
            raise Gone(said)
        if status in PASSING:
            raise Passing(f"HTTP {status}: {said}")
        if status == 401:
            raise UserError(f"{self.host} refuses the credentials", "Log in again, or correct the kubeconfig's user")
        if status == 403 and 'User "system:anonymous"' in said:
            raise UserError(
                f"{self.host} takes you for nobody: the kubeconfig's user gives no credentials",
                "Log in again, or correct the user's token, certificate or exec command in the kubeconfig",
            )
        if status == 403 and " cannot " not in said:  # who may do it was asked before: this is admission
            raise UserError(f"{what} is refused: {said}", _admission_remedy(said))
        if status == 403:
            raise UserError(
                f"not allowed to {what}: {said}",
                f"Ask for the verb {verb!r} on {str(resource)!r} in a Role of that namespace",
            )
        raise UserError(f"{what}: HTTP {status}: {said}")


def _selecting(selector: str, fields: str) -> dict[str, str]:
    given = {"labelSelector": selector, "fieldSelector": fields}
    return {name: value for name, value in given.items() if value}


def _message(data: bytes) -> str:
    """The server's own sentence: of its Status object, or the text of a proxy before it."""
    try:
        return str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        return data.decode("utf-8", "replace").strip()[:300] or "no message"


def _admission_remedy(said: str) -> str:
    if "violates PodSecurity" in said:
        return "Take out of the values what breaks that level, or let the namespace enforce a lower one"
    if "quota" in said:
        return "Ask for more quota in that namespace, or for less in the profile"
    return "Mend what the server names, or ask who runs the cluster"


def _lines(stream: Any) -> Iterator[bytes]:
    """The lines of a response that arrives in pieces; Passing when the connection ends within one."""
    from urllib3.exceptions import HTTPError

    rest = b""
    try:
        for piece in stream.stream(None, decode_content=False):
            *whole, rest = (rest + piece).split(b"\n")
            yield from (line for line in whole if line.strip())
    except HTTPError as error:
        raise Passing(f"the watch broke off: {error}") from error
