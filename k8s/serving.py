"""A Deployment of the hanforge-serve chart: made to serve a promotion, waited for, and why it does not serve.

Its pods' annotation says which promotion; pods of the old one go when those of the new one are ready, so a new model
that does not come up takes nothing away.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from k8s.client import DEPLOYMENTS, PODS, Cluster, Object
from k8s.why import last_line
from pipeline.errors import Stopped, Trouble, UserError

LOOK_SECONDS = 2.0
SAY_SECONDS = 20.0
PROMOTION = "hanforge.io/promotion"
CHART = {"app.kubernetes.io/name": "hanforge-serve"}
TRIES = 3  # a container that ended so often for the same passing trouble is not waited for
IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
BY_KUBELET = (0, 137, 143)  # vLLM ends with 0 on SIGTERM


@dataclass(frozen=True)
class PodState:
    """A serving pod in words; `cause` and `remedy` when something is wrong; `final` when waiting will not mend it."""

    name: str
    words: str
    cause: str = ""
    remedy: str = ""
    final: bool = False


def follow_promotion(cluster: Cluster, deployment: str, n: int) -> bool:
    """Roll a serving Deployment to promotion n by its pods' one annotation; False when it is not there."""
    template = {"metadata": {"annotations": {PROMOTION: str(n)}}}
    return cluster.patch(DEPLOYMENTS, deployment, {"spec": {"template": template}}) is not None


def roll_out(cluster: Cluster, deployment: str, n: int, stop_requested: Callable[[], bool]) -> None:
    """Return when every pod of the Deployment serves promotion n; UserError when there is none, else as
    `until_rolled_out`."""
    if not follow_promotion(cluster, deployment, n):
        raise UserError(
            f"Deployment {deployment!r} is not in namespace {cluster.namespace!r}",
            "Deploy it: make deploy-serve, or correct serve.deployment",
        )
    until_rolled_out(cluster, deployment, f"promotion {n}", stop_requested)


def until_rolled_out(
    cluster: Cluster,
    deployment: str,
    what: str,
    stop_requested: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Return when all pods are of the newest template and ready; `say` hears of each change and now and then.

    UserError or Trouble, with the pod's own last words, when a pod cannot come up, and Trouble when none does within
    `progressDeadlineSeconds`; Stopped when `stop_requested()` turns true meanwhile.
    """
    may_look = cluster.allowed("list", PODS)
    began, said, when = time.monotonic(), "", 0.0
    while not _is_rolled_out(found := cluster.get(DEPLOYMENTS, deployment) or {}):
        pods = newest_pods(cluster, deployment) if may_look and _is_seen(found) else []
        _check(cluster, found, deployment, what, pods)
        if stop_requested():
            raise Stopped(f"stopped on request while {what} was rolling out")
        words = "; ".join(f"{pod.name}: {pod.words}" for pod in pods) or "no pod yet"
        if words != said or time.monotonic() - when > SAY_SECONDS:
            said, when = words, time.monotonic()
            say(f"{when - began:4.0f} s  {words}")
        time.sleep(LOOK_SECONDS)


def serving_reasons(cluster: Cluster, release: str) -> list[str]:
    """What a serving release does, and why a pod of it does not serve; [] where the release is none of that chart."""
    found = cluster.get(DEPLOYMENTS, release) if cluster.allowed("get", DEPLOYMENTS) else None
    if found is None or not CHART.items() <= (found["metadata"].get("labels") or {}).items():
        return []
    n = (found["spec"]["template"]["metadata"].get("annotations") or {}).get(PROMOTION)
    what = f"promotion {n}" if n else "its model"
    ready, wanted = found.get("status", {}).get("readyReplicas", 0), found["spec"].get("replicas", 1)
    if _is_rolled_out(found):
        return [f"{release}: {ready} of {wanted} pods serve {what}"]
    out = [f"{release}: {what} is not served by all yet; {ready} of {wanted} pods answer meanwhile"]
    for pod in newest_pods(cluster, release):
        out.append(f"{pod.name}: {pod.cause}. {pod.remedy}" if pod.cause else f"{pod.name}: {pod.words}")
    return out


def newest_pods(cluster: Cluster, deployment: str) -> list[PodState]:
    """The pods of the Deployment's newest template; pods that end are left out."""
    pods = cluster.list(PODS, f"app.kubernetes.io/instance={deployment}")["items"]
    staying = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    staying.sort(key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    newest = _template(staying[-1]) if staying else ""
    return [state_of(pod) for pod in staying if _template(pod) == newest]


def state_of(pod: Object) -> PodState:
    """What a serving pod does, or what keeps it from it."""
    name, status = str(pod["metadata"]["name"]), pod["status"]
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    if (scheduled := conditions.get("PodScheduled", {})).get("status") == "False":
        cause = f"no node takes it: {scheduled.get('message', '')}"
        return PodState(name, cause, cause, "Free or add such a node, or choose another profile (--profile)")
    own: Object = next(iter(status.get("containerStatuses") or ()), {})
    state, last = own.get("state") or {}, own.get("lastState") or {}
    waiting = state.get("waiting") or {}
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in IMAGE:
        cause = f"image {own.get('image')} cannot be pulled ({reason}) {message}".strip()
        return PodState(name, cause, cause, "Correct image in the values or push it; see imagePullSecrets", True)
    if reason in ("CreateContainerConfigError", "CreateContainerError"):
        cause = f"its container cannot be made ({reason}): {message}"
        return PodState(name, cause, cause, "Create what is missing in the namespace, or correct the values", True)
    ended = state.get("terminated") or last.get("terminated")
    if ended and not own.get("ready"):
        return _ended(pod, own, ended)
    if own.get("ready"):
        return PodState(name, "ready")
    node = pod["spec"].get("nodeName")
    if "running" in state:
        return PodState(name, f"fetches and loads the model on {node}")
    return PodState(name, f"{reason or status.get('phase', 'Pending')}{f' on {node}' if node else ''}")


def _ended(pod: Object, own: Object, ended: dict[str, Any]) -> PodState:
    """A pod whose container ended at least once and is not ready since."""
    name, code, tries = str(pod["metadata"]["name"]), int(ended["exitCode"]), int(own.get("restartCount", 0)) + 1
    limit = pod["spec"]["containers"][0].get("resources", {}).get("limits", {}).get("memory", "its limit")
    look = f"Look at its log: kubectl logs --namespace {pod['metadata']['namespace']} {name} --previous"
    if ended.get("reason") == "OOMKilled":
        cause = f"killed for want of memory at {limit} (OOMKilled)"
        return PodState(name, cause, cause, "Raise resources.memory, or lower engine.max_model_len", True)
    if code in BY_KUBELET:
        cause = "started again, since it was not ready within startupSeconds, or answered /health no more"
        return PodState(name, cause, cause, f"Raise startupSeconds where the model loads longer. {look}", True)
    words = last_line(str(ended.get("message") or ""))
    cause = f"its server ended with exit code {code}{f': {words}' if words else ''}"
    final = code == UserError.exit_code or tries >= TRIES
    return PodState(name, f"{cause} (try {tries})", cause, look, final)


def _check(cluster: Cluster, found: Object, deployment: str, what: str, pods: list[PodState]) -> None:
    """Raise when waiting longer is of no use."""
    before = "; the pods from before go on serving" if (found.get("status") or {}).get("readyReplicas") else ""
    for pod in pods:
        if pod.final:
            raise UserError(f"{what} does not come up: pod {pod.name}: {pod.cause}{before}", pod.remedy)
    for condition in (found.get("status") or {}).get("conditions") or ():
        if condition.get("reason") == "ProgressDeadlineExceeded" and _is_seen(found):
            own = "; ".join(f"{pod.name}: {pod.words}" for pod in pods) or condition.get("message", "")
            raise Trouble(
                f"Deployment {deployment!r} does not come up with {what}: {own}{before}",
                f"hanforge why --release {deployment} --namespace {cluster.namespace}",
            )


def _template(pod: Object) -> str:
    return str((pod["metadata"].get("labels") or {}).get("pod-template-hash", ""))


def _is_seen(found: Object) -> bool:
    """Whether the status is about the newest specification."""
    return bool(found) and int(found.get("status", {}).get("observedGeneration", 0)) >= int(
        found["metadata"]["generation"]
    )


def _is_rolled_out(found: Object) -> bool:
    """As `kubectl rollout status` sees it: all pods are of the newest template and available, none is left over."""
    if not _is_seen(found):
        return False
    status, wanted = found["status"], found["spec"].get("replicas", 1)
    counts = [status.get(name, 0) for name in ("updatedReplicas", "replicas", "availableReplicas")]
    return bool(counts == [wanted] * 3)
