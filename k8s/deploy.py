"""Before anything is created: what of a rendered chart could not work in this cluster, each with its own remedy.

All of it is looked for, and said together. The last look is the server's own: every object, and every stage's pod, is
created as a dry run, so that admission (Pod Security, quotas, RBAC) speaks before there is anything to clean up.
"""

import json
from collections.abc import Callable, Iterator

from k8s import nodes
from k8s.chain import template_of
from k8s.client import (
    CONFIGMAPS,
    DEPLOYMENTS,
    JOBS,
    JOBSETS,
    LOCAL_QUEUES,
    NAMESPACES,
    NODES,
    PODS,
    ROLE_BINDINGS,
    ROLES,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICES,
    WORKFLOWS,
    Cluster,
    Object,
    Resource,
)
from pipeline.errors import UserError

KINDS = {
    "ConfigMap": CONFIGMAPS,
    "Deployment": DEPLOYMENTS,
    "HorizontalPodAutoscaler": Resource("horizontalpodautoscalers", "autoscaling", "v2"),
    "Job": JOBS,
    "JobSet": JOBSETS,
    "NetworkPolicy": Resource("networkpolicies", "networking.k8s.io"),
    "PodDisruptionBudget": Resource("poddisruptionbudgets", "policy"),
    "Role": ROLES,
    "RoleBinding": ROLE_BINDINGS,
    "ScaledObject": Resource("scaledobjects", "keda.sh", "v1alpha1"),
    "Service": SERVICES,
    "ServiceAccount": SERVICE_ACCOUNTS,
    "ServiceMonitor": Resource("servicemonitors", "monitoring.coreos.com"),
    "Workflow": WORKFLOWS,
}
INSTALLERS = {
    "argoproj.io": "Argo Workflows",
    "jobset.x-k8s.io": "JobSet",
    "keda.sh": "KEDA",
    "kueue.x-k8s.io": "Kueue",
}
INSTEAD = {WORKFLOWS: "deploy with engine: jobs", JOBSETS: "deploy with gang: job"}
BUILT_IN = ("", "apps", "autoscaling", "batch", "networking.k8s.io", "policy", "rbac.authorization.k8s.io")
CLAIMS = Resource("persistentvolumeclaims")
QUEUE = "kueue.x-k8s.io/queue-name"
HELM_VERBS = ("get", "create", "update", "delete")  # of Helm's own record, a Secret


def check(cluster: Cluster, objects: list[Object], any_nodes: bool = False) -> list[str]:
    """Notes about what is not sure; UserError with every trouble, a line each, when something cannot work."""
    if cluster.allowed("get", NAMESPACES) and cluster.get(NAMESPACES, cluster.namespace) is None:
        raise UserError(
            f"namespace {cluster.namespace!r} does not exist in {cluster.host}",
            f"Create it (kubectl create namespace {cluster.namespace}), or name another with --namespace",
        )
    pods, jobs = pods_of(objects), jobs_of(objects)
    notes: list[str] = []
    looks: list[Callable[[], Iterator[UserError]]] = [
        lambda: _kinds(cluster, [*objects, *jobs]),
        lambda: _permissions(cluster, objects),
        lambda: _referred(cluster, pods, notes),
        lambda: _queues(cluster, jobs),
        lambda: _placed(cluster, pods, any_nodes, notes),
    ]
    found = [error for look in looks for error in look()] or list(_admission(cluster, objects, jobs, notes))
    if found:
        *before, last = found
        raise UserError("\n".join([*(str(error) for error in before), last.what]), last.remedy)
    return notes


def jobs_of(objects: list[Object]) -> list[Object]:
    """The Jobs that the driver will create, from the ConfigMap that holds them."""
    held = [
        json.loads(text)
        for item in objects
        if item["kind"] == "ConfigMap" and "chain.json" in (item.get("data") or {})
        for key, text in item["data"].items()
        if key != "chain.json"
    ]
    return [job for job in held if job.get("kind") in ("Job", "JobSet")]


def run_of(objects: list[Object]) -> str:
    """The id of the run that a rendered charts/hanforge is about."""
    held = (item["data"]["chain.json"] for item in objects if "chain.json" in (item.get("data") or {}))
    return str(json.loads(next(held))["run"])


def pods_of(objects: list[Object]) -> dict[str, Object]:
    """Each pod's spec by what it is: a stage's name, "driver", or a Deployment's name."""
    out: dict[str, Object] = {}
    for item in [*objects, *jobs_of(objects)]:
        if item["kind"] in ("Job", "JobSet", "Deployment"):
            labels = item["metadata"].get("labels") or {}
            component = labels.get("app.kubernetes.io/component", item["metadata"]["name"])
            out[labels.get("hanforge.io/stage", component)] = template_of(item)["spec"]
    return out


def _kinds(cluster: Cluster, objects: list[Object]) -> Iterator[UserError]:
    """Kinds that this cluster does not know: an operator's definitions are not installed."""
    wanted = {KINDS[item["kind"]] for item in objects if item["kind"] in KINDS}
    wanted |= {LOCAL_QUEUES for item in objects if QUEUE in (item["metadata"].get("labels") or {})}
    for resource in sorted(wanted, key=str):
        if resource.group not in BUILT_IN and not cluster.serves(resource):
            who = INSTALLERS.get(resource.group, resource.group)
            instead = INSTEAD.get(resource, "leave it out")
            what = f"the cluster has no {resource} ({resource.version}): {who} is not installed"
            yield UserError(what, f"Install it, or {instead}")


def _permissions(cluster: Cluster, objects: list[Object]) -> Iterator[UserError]:
    wanted = {
        (verb, KINDS[item["kind"]]) for item in objects if item["kind"] in KINDS for verb in ("get", "create", "patch")
    }
    wanted |= {(verb, SECRETS) for verb in HELM_VERBS}
    refused: dict[Resource, list[str]] = {}
    for verb, resource in sorted(wanted, key=str):
        if not cluster.allowed(verb, resource):
            refused.setdefault(resource, []).append(verb)
    if refused:
        lacking = [f"{', '.join(verbs)} {resource}" for resource, verbs in refused.items()]
        helms = " (Helm keeps its record in secrets)" if SECRETS in refused else ""
        yield UserError(
            f"you may not in namespace {cluster.namespace!r}: {'; '.join(lacking)}{helms}",
            "Ask for a Role there with these verbs on these resources, or name another namespace",
        )


def _referred(cluster: Cluster, pods: dict[str, Object], notes: list[str]) -> Iterator[UserError]:
    """Secrets and volume claims that pods name, which no chart of ours makes."""
    for resource, names in ((SECRETS, _secrets(pods)), (CLAIMS, _claims(pods))):
        if names and not cluster.allowed("get", resource):
            notes.append(f"whether {resource} {', '.join(names)} exist is not known: you may not get {resource}")
            continue
        for name, who in names.items():
            if cluster.get(resource, name) is None:
                one = "Secret" if resource == SECRETS else "PersistentVolumeClaim"
                how = f" (kubectl create secret generic {name} --namespace {cluster.namespace} --from-env-file=FILE)"
                yield UserError(
                    f"{one} {name!r} does not exist in namespace {cluster.namespace!r}; {who} needs it",
                    f"Create it there{how if resource == SECRETS else ''}, or correct its name in the values",
                )


def _secrets(pods: dict[str, Object]) -> dict[str, str]:
    """Name -> who wants it, of every Secret that is not optional."""
    out: dict[str, str] = {}
    for who, spec in pods.items():
        found = [(each.get("name"), each) for each in spec.get("imagePullSecrets") or ()]
        for container in [*(spec.get("initContainers") or ()), *spec["containers"]]:
            sources = [each.get("secretRef") for each in container.get("envFrom") or ()]
            sources += [(each.get("valueFrom") or {}).get("secretKeyRef") for each in container.get("env") or ()]
            found += [(each["name"], each) for each in sources if each]
        found += [
            (each["secret"]["secretName"], each["secret"]) for each in spec.get("volumes") or () if "secret" in each
        ]
        out.update({str(name): who for name, each in found if not each.get("optional") and name not in out})
    return out


def _claims(pods: dict[str, Object]) -> dict[str, str]:
    return {
        volume["persistentVolumeClaim"]["claimName"]: who
        for who, spec in pods.items()
        for volume in spec.get("volumes") or ()
        if "persistentVolumeClaim" in volume
    }


def _queues(cluster: Cluster, jobs: list[Object]) -> Iterator[UserError]:
    names = {job["metadata"]["labels"][QUEUE] for job in jobs if QUEUE in job["metadata"]["labels"]}
    for name in names if names and cluster.serves(LOCAL_QUEUES) and cluster.allowed("get", LOCAL_QUEUES) else ():
        if cluster.get(LOCAL_QUEUES, name) is None:
            yield UserError(
                f"LocalQueue {name!r} does not exist in namespace {cluster.namespace!r}", "Correct kueue.queue"
            )


def _placed(cluster: Cluster, pods: dict[str, Object], any_nodes: bool, notes: list[str]) -> Iterator[UserError]:
    """Pods that no node takes; each node with its reasons."""
    if not cluster.allowed("list", NODES):
        notes.append("whether a node fits is not known: you may not list nodes")
        return
    known = cluster.list(NODES)["items"]
    unplaced: dict[str, list[str]] = {}
    for who, spec in pods.items():
        found = nodes.candidates(known, spec)
        if all(each.reasons for each in found):
            unplaced.setdefault(nodes.in_words(found), []).append(who)
    for words, whose in unplaced.items():
        what = f"{', '.join(whose)}: no node takes its pod: {words}"
        if any_nodes:
            notes.append(what)
            continue
        yield UserError(
            what,
            "Mend the nodes, choose another profile (--profile), or say --any-nodes where an autoscaler makes nodes",
        )


def _admission(cluster: Cluster, objects: list[Object], jobs: list[Object], notes: list[str]) -> Iterator[UserError]:
    """What the server itself says of each object that is not there yet, and of each stage's pod."""
    tried: list[tuple[Resource, Object]] = [(KINDS[item["kind"]], item) for item in objects if item["kind"] in KINDS]
    tried += [(JOBSETS, job) for job in jobs if job["kind"] == "JobSet"]
    if cluster.allowed("create", PODS):
        tried += [(PODS, _pod(job)) for job in jobs]
    else:
        notes.append("whether Pod Security admits the pods is not known: you may not create pods")
    said: set[str] = set()
    for resource, body in tried:
        try:
            cluster.create(resource, body, dry_run=True)
        except UserError as error:
            cause = error.what.split(" is forbidden: ")[-1]
            if cause not in said:
                yield UserError(f"{body['metadata']['name']}: {error.what}", error.remedy)
            said.add(cause)


def _pod(job: Object) -> Object:
    """A Job's pod as the server would be asked for it; its own service account is not there yet."""
    template = template_of(job)
    spec = {**template["spec"], "serviceAccountName": "default"}
    metadata = {**template.get("metadata", {}), "name": job["metadata"]["name"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
