"""Which nodes a pod could run on, and of each other one why not: what the scheduler looks at, before there is a pod.

Label rules, taints and sizes as in the Kubernetes documentation ("Assigning Pods to Nodes", "Taints and Tolerations").
"""

from dataclasses import dataclass
from typing import Any

from k8s.client import Object

GPU = "nvidia.com/gpu"
SHOWN = 12
IN_GIB = {"memory": "GiB of memory", "ephemeral-storage": "GiB of disk"}


@dataclass(frozen=True)
class Candidate:
    """A node, and the reasons for which it does not take the pod: none when it does."""

    node: str
    reasons: tuple[str, ...]
    gpus: int = 0

    def __str__(self) -> str:
        return f"{self.node}: {'; '.join(self.reasons) or 'fits'}"


def candidates(nodes: list[Object], pod: Object) -> list[Candidate]:
    """Every node against a pod's spec; those that fit first, then those with GPUs, then by how much is wrong."""
    found = [Candidate(node["metadata"]["name"], tuple(_reasons(node, pod)), _gpus(node)) for node in nodes]
    return sorted(found, key=lambda each: (len(each.reasons) > 0, -each.gpus, len(each.reasons), each.node))


def in_words(found: list[Candidate]) -> str:
    """The candidates as one line, a node each."""
    shown = [str(each) for each in found[:SHOWN]]
    more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return " | ".join([*shown, *more]) or "the cluster has no nodes"


def _reasons(node: Object, pod: Object) -> list[str]:
    out: list[str] = []
    if node.get("spec", {}).get("unschedulable"):
        out.append("it is cordoned")
    ready = [each for each in node.get("status", {}).get("conditions") or () if each["type"] == "Ready"]
    if ready and ready[0]["status"] != "True":
        out.append(f"it is not ready ({ready[0].get('reason', 'unknown')})")
    out.extend(_label_reasons(node, pod))
    out.extend(_taint_reasons(node, pod))
    out.extend(_size_reasons(node, pod))
    return out


def _label_reasons(node: Object, pod: Object) -> list[str]:
    """Of terms that are ORed the one that is nearest: with the fewest labels that are wrong."""
    labels = node["metadata"].get("labels") or {}
    out = [
        f"label {key} is {_shown(labels.get(key))}, wants {value!r}"
        for key, value in (pod.get("nodeSelector") or {}).items()
        if labels.get(key) != value
    ]
    affinity = (pod.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = [_term_reasons(node, labels, term) for term in required.get("nodeSelectorTerms") or ()]
    known = [  # a cloud's labels say nothing of a node that carries none of them
        reasons
        for reasons, term in zip(terms, required.get("nodeSelectorTerms") or (), strict=True)
        if any(rule["key"] in labels for rule in term.get("matchExpressions") or ())
    ]
    return [*out, *min(known or terms, key=len, default=[])]


def _term_reasons(node: Object, labels: dict[str, str], term: Object) -> list[str]:
    own = {"metadata.name": node["metadata"]["name"]}
    rules = [(rule, labels, "label ") for rule in term.get("matchExpressions") or ()]
    rules += [(rule, own, "") for rule in term.get("matchFields") or ()]
    return [
        f"{kind}{rule['key']} is {_shown(of.get(rule['key']))}, wants {_wanted(rule)}"
        for rule, of, kind in rules
        if not _matches(of.get(rule["key"]), rule["operator"], rule.get("values") or [])
    ]


def _matches(value: str | None, operator: str, wanted: list[str]) -> bool:
    if operator in ("Exists", "DoesNotExist"):
        return (value is not None) == (operator == "Exists")
    if operator == "NotIn":
        return value not in wanted
    if value is None:
        return False
    if operator == "In":
        return value in wanted
    try:
        return int(value) > int(wanted[0]) if operator == "Gt" else int(value) < int(wanted[0])
    except ValueError:
        return False


def _shown(value: str | None) -> str:
    return "missing" if value is None else repr(value)


def _wanted(rule: Object) -> str:
    values = " or ".join(rule.get("values") or ())
    words = {"In": values, "NotIn": f"not {values}", "Gt": f"more than {values}", "Lt": f"less than {values}"}
    return words.get(rule["operator"], "it to be there" if rule["operator"] == "Exists" else "it not to be there")


def _taint_reasons(node: Object, pod: Object) -> list[str]:
    tolerations: list[Object] = pod.get("tolerations") or []
    return [
        f"taint {taint['key']}={taint.get('value', '')}:{taint['effect']} is not tolerated"
        for taint in node.get("spec", {}).get("taints") or ()
        if taint["effect"] in ("NoSchedule", "NoExecute")
        and taint["key"] != "node.kubernetes.io/unschedulable"  # said as cordoned
        and taint["key"] != "node.kubernetes.io/not-ready"
        and not any(_tolerates(each, taint) for each in tolerations)
    ]


def _tolerates(toleration: Object, taint: Object) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if not toleration.get("key"):
        return toleration.get("operator") == "Exists"
    same = toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", "")
    return toleration["key"] == taint["key"] and same


def _size_reasons(node: Object, pod: Object) -> list[str]:
    has: dict[str, Any] = node.get("status", {}).get("allocatable") or {}
    out: list[str] = []
    for resource, wanted in requests(pod).items():
        there = quantity(has.get(resource, "0"))
        if wanted > there:
            unit = 2**30 if resource in IN_GIB else 1
            out.append(f"has {there / unit:.4g} {IN_GIB.get(resource, resource)}, wants {wanted / unit:.4g}")
    return out


def requests(pod: Object) -> dict[str, float]:
    """What a pod asks for by resource: the sum of its containers and sidecars, or its largest init container."""
    total: dict[str, float] = {}
    largest: dict[str, float] = {}
    for container in pod.get("initContainers") or ():
        into = total if container.get("restartPolicy") == "Always" else largest
        for resource, amount in _asked(container).items():
            into[resource] = into.get(resource, 0.0) + amount if into is total else max(into.get(resource, 0.0), amount)
    for container in pod["containers"]:
        for resource, amount in _asked(container).items():
            total[resource] = total.get(resource, 0.0) + amount
    return {name: max(total.get(name, 0.0), largest.get(name, 0.0)) for name in {**total, **largest}}


def _asked(container: Object) -> dict[str, float]:
    resources = container.get("resources") or {}
    asked = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: quantity(amount) for name, amount in asked.items()}


def quantity(text: str | int) -> float:
    """A Kubernetes quantity as a number. Examples: "100m" -> 0.1, "2Gi" -> 2147483648.0"""
    from kubernetes.utils.quantity import parse_quantity

    return float(parse_quantity(str(text)))


def _gpus(node: Object) -> int:
    return int(quantity((node.get("status", {}).get("allocatable") or {}).get(GPU, "0")))
