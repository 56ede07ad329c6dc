"""Nodes against a pod's spec: labels, taints, GPU count, memory; shapes as the API gives them."""

from typing import Any

import pytest

from k8s.client import Object
from k8s.nodes import candidates, in_words, requests


def node(name: str, gpus: int, product: str, memory: str = "64Gi", **spec: Any) -> Object:
    labels = {"nvidia.com/gpu.product": product, "nvidia.com/gpu.count": str(gpus)} if gpus else {}
    status = {
        "allocatable": {"cpu": "8", "memory": memory, **({"nvidia.com/gpu": str(gpus)} if gpus else {})},
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    taints = [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}] if gpus else []
    return {"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints, **spec}, "status": status}


def pod(products: list[str], gpus: int, memory: str = "30Gi", tolerant: bool = True) -> Object:
    """As the chart places a profile: feature discovery's labels, or Karpenter's."""
    terms = [
        [
            {"key": "nvidia.com/gpu.product", "operator": "In", "values": products},
            {"key": "nvidia.com/gpu.count", "operator": "Gt", "values": [str(gpus - 1)]},
        ],
        [{"key": "karpenter.k8s.aws/instance-gpu-name", "operator": "In", "values": ["t4"]}],
    ]
    required = {"nodeSelectorTerms": [{"matchExpressions": rules} for rules in terms]}
    return {
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}] if tolerant else [],
        "containers": [{"name": "stage", "resources": {"limits": {"memory": memory, "nvidia.com/gpu": str(gpus)}}}],
    }


PAIR = node("t4-0", 2, "Tesla-T4")
NODES = [node("cpu-0", 0, ""), node("h100-0", 8, "NVIDIA-H100-80GB-HBM3"), PAIR, node("t4-1", 1, "Tesla-T4")]


def test_each_node_says_why_it_does_not_fit() -> None:
    assert {each.node: each.reasons for each in candidates(NODES, pod(["Tesla-T4"], 2))} == {
        "t4-0": (),
        "h100-0": ("label nvidia.com/gpu.product is 'NVIDIA-H100-80GB-HBM3', wants Tesla-T4",),
        "t4-1": (
            "label nvidia.com/gpu.count is '1', wants more than 1",
            "has 1 nvidia.com/gpu, wants 2",
        ),
        "cpu-0": (
            "label karpenter.k8s.aws/instance-gpu-name is missing, wants t4",
            "has 0 nvidia.com/gpu, wants 2",
        ),
    }


@pytest.mark.parametrize(
    ("spec", "there", "reason"),
    [
        (pod(["Tesla-T4"], 2, tolerant=False), PAIR, "taint nvidia.com/gpu=present:NoSchedule is not tolerated"),
        (pod(["Tesla-T4"], 2, "128Gi"), PAIR, "has 64 GiB of memory, wants 128"),
        (pod(["Tesla-T4"], 2), node("t4-0", 2, "Tesla-T4", unschedulable=True), "it is cordoned"),
        ({"nodeSelector": {"pool": "a"}, "containers": []}, NODES[0], "label pool is missing, wants 'a'"),
    ],
)
def test_a_reason_names_label_taint_memory_and_cordon(spec: Object, there: Object, reason: str) -> None:
    assert candidates([there], spec)[0].reasons == (reason,)


def test_a_cloud_label_alone_is_enough() -> None:
    there = node("new", 2, "Tesla-T4")
    there["metadata"]["labels"] = {"karpenter.k8s.aws/instance-gpu-name": "t4"}
    assert candidates([there], pod(["Tesla-T4"], 2))[0].reasons == ()


def test_sidecars_count_beside_the_stage_and_init_containers_do_not() -> None:
    def container(cpu: str, **more: Any) -> Object:
        return {"resources": {"requests": {"cpu": cpu}}, **more}

    spec = {
        "initContainers": [container("1", restartPolicy="Always"), container("500m")],
        "containers": [container("100m")],
    }
    assert requests(spec) == {"cpu": 1.1}


def test_a_large_cluster_is_cut_in_words() -> None:
    many = [node(f"n{number:02d}", 0, "") for number in range(20)]
    assert in_words(candidates(many, pod(["Tesla-T4"], 2))).endswith("and 8 more")
    assert in_words([]) == "the cluster has no nodes"
