"""Which nodes a profile's pods want: labels of three origins ORed, memory never by equality, tolerations, limits."""

from typing import Any

import pytest

from pipeline.recipe.profiles import profiles
from tests.charts.rendering import Object, check_kubernetes, manifests, objects

GFD, GKE = "nvidia.com/gpu.product", "cloud.google.com/gke-accelerator"
KARPENTER, KARPENTER_MIB = "karpenter.k8s.aws/instance-gpu-name", "karpenter.k8s.aws/instance-gpu-memory"
H100 = {GFD: "NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.count": "8", "nvidia.com/gpu.memory": "81559"}
T4_PAIR = {GFD: "Tesla-T4", "nvidia.com/gpu.count": "2", "nvidia.com/gpu.memory": "15109"}
T4 = {**T4_PAIR, "nvidia.com/gpu.count": "1"}


def phase1(values: dict[str, Any]) -> Object:
    job = manifests(objects({"recipeName": "korean-vla", "only": ["phase1"], **values}))["phase1"]
    check_kubernetes(job)
    spec: Object = job["spec"]["template"]["spec"]
    return spec


def fits(spec: Object, labels: dict[str, str]) -> bool:
    """The scheduler's rule: one of the terms, and of that one every expression."""
    affinity = spec.get("affinity")
    if affinity is None:
        return True
    rules = {
        "In": lambda value, wanted: value in wanted,
        "Gt": lambda value, wanted: value is not None and int(value) > int(wanted[0]),
    }
    terms = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return any(
        all(rules[rule["operator"]](labels.get(rule["key"]), rule["values"]) for rule in term["matchExpressions"])
        for term in terms
    )


@pytest.mark.parametrize(
    ("profile", "labels", "fitting"),
    [
        ("h100", H100, True),
        ("h100", {**H100, GFD: "NVIDIA-H100-80GB-HBM3-SHARED"}, False),
        ("h100", T4_PAIR, False),
        ("h100", {GKE: "nvidia-h100-80gb"}, True),
        ("h100", {KARPENTER: "h100", KARPENTER_MIB: "81920"}, True),
        ("h100", {}, False),
        ("t4-pair", T4_PAIR, True),
        ("t4-pair", {**T4_PAIR, "nvidia.com/gpu.memory": "15360"}, True),
        ("t4-pair", T4, False),
        ("t4-pair", {KARPENTER: "t4", KARPENTER_MIB: "16384"}, False),  # how many, nobody says
        ("a100", {KARPENTER: "a100", KARPENTER_MIB: "40960"}, False),  # the 40 GB card
        ("a10g", {GFD: "NVIDIA-A10G", "nvidia.com/gpu.memory": "23028"}, True),
        ("rtx4090", {GFD: "NVIDIA-GeForce-RTX-4090", "nvidia.com/gpu.memory": "24564"}, True),
        ("v100", {GFD: "Tesla-V100-SXM2-32GB"}, True),
        ("v100", {GFD: "Tesla-V100-SXM2-16GB"}, False),
        ("cpu", {}, True),
    ],
)
def test_a_profile_finds_its_nodes(profile: str, labels: dict[str, str], fitting: bool) -> None:
    assert fits(phase1({"profile": profile}), labels) is fitting


@pytest.mark.parametrize("name", list(profiles()))
def test_a_pod_asks_for_what_its_profile_has(name: str) -> None:
    profile, spec = profiles()[name], phase1({"profile": name})
    limits = spec["containers"][0]["resources"]["limits"]
    assert limits["memory"] == f"{int(profile.host_memory_gib * 1024)}Mi"
    assert limits.get("nvidia.com/gpu") == (str(profile.gpu.count) if profile.gpu else None)
    tolerated = [{"key": "nvidia.com/gpu", "operator": "Exists"}] if profile.gpu else None
    assert spec.get("tolerations") == tolerated
    (memory,) = (volume["emptyDir"] for volume in spec["volumes"] if volume["name"] == "shm")
    assert memory == {"medium": "Memory", "sizeLimit": f"{int(profile.shm_gib * 1024)}Mi"}
    assert spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is (profile.gpu is None)


def test_a_profile_of_ones_own_is_found_by_memory_and_labels() -> None:
    gpu = {"name": "any", "count": 4, "memory_gib": 40, "compute_capability": [8, 0]}
    own: dict[str, Any] = {"precision": "bf16", "gpu": {**gpu, "resource": "nvidia.com/mig-3g.40gb"}}
    own |= {"node_labels": {"pool": "ours"}, "tolerations": [{"key": "ours"}]}
    spec = phase1({"profiles": {"mine": own}, "stages": {"phase1": {"profile": "mine"}}})
    labels = {"nvidia.com/gpu.memory": "40960", "nvidia.com/gpu.count": "4", "pool": "ours"}
    assert fits(spec, labels)
    for key, value in (("nvidia.com/gpu.memory", "24000"), ("nvidia.com/gpu.count", "2"), ("pool", "theirs")):
        assert not fits(spec, {**labels, key: value})
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/mig-3g.40gb"] == "4"
    assert [toleration["key"] for toleration in spec["tolerations"]] == ["nvidia.com/gpu", "ours"]


def test_a_cpu_profile_may_have_labels_too() -> None:
    spec = phase1({"profile": "cpu", "profiles": {"cpu": {"node_labels": {"pool": "cpu"}}}})
    assert fits(spec, {"pool": "cpu"}) and not fits(spec, {})


def test_one_change_of_a_shipped_profile_keeps_the_rest() -> None:
    spec = phase1({"profiles": {"h100": {"gpu": {"count": 8}, "shm_gib": 0.5}}})
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert fits(spec, H100) and not fits(spec, {**H100, "nvidia.com/gpu.count": "4"})


def test_node_selector_and_tolerations_are_for_every_pod() -> None:
    taint = {"key": "nvidia.com/gpu", "operator": "Exists"}
    values = {"recipeName": "demo", "tolerations": [taint], "nodeSelector": {"zone": "a"}, "priorityClassName": "low"}
    items = objects(values)
    specs = [job["spec"]["template"]["spec"] for name, job in manifests(items).items() if name != "chain"]
    specs += [item["spec"]["template"]["spec"] for item in items if item["kind"] == "Job"]
    for spec in specs:
        assert spec["tolerations"] == [taint] and spec["nodeSelector"] == {"zone": "a"}
        assert spec["priorityClassName"] == "low"
