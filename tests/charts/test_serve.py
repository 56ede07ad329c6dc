"""charts/hanforge-serve: the Deployment and what stands around it."""

import json
from typing import Any

import pytest
from helm_python import HelmError

from pipeline.engine.settings import EngineSettings
from pipeline.recipe.profiles import profiles
from tests.charts.pod_security import violations
from tests.charts.rendering import Object, chart, check_kubernetes, objects, one, texts

EVERYTHING: dict[str, Any] = {
    "apiKey": {"secret": "key"},
    "networkPolicy": {"enabled": True, "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "autoscaling": {"by": "hpa"},
    "cache": {"claim": "models"},
    "imagePullSecrets": ["registry"],
    "promotion": "3",
}


def served(values: dict[str, Any]) -> list[Object]:
    return objects({"model": "promoted@demo", **values}, "demo-serve", "hanforge-serve")


def container(values: dict[str, Any]) -> Object:
    (found,) = one(served(values), "Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(found)


@pytest.mark.parametrize("profile", list(profiles()))
@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["bare", "everything"])
def test_every_profile(profile: str, values: dict[str, Any]) -> None:
    items = served({**values, "profile": profile})
    for item in items:
        if item["apiVersion"].split("/")[0] not in ("monitoring.coreos.com", "keda.sh"):
            check_kubernetes(item)
    deployment = one(items, "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    assert list(violations(spec)) == [] and spec["automountServiceAccountToken"] is False
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
        for item in (item for item in items if item["kind"] == kind):
            chosen = item["spec"].get("podSelector") or item["spec"]["selector"]
            assert chosen.get("matchLabels", chosen).items() <= labels.items()
    gpu = profiles()[profile].gpu
    assert spec["containers"][0]["resources"]["limits"].get("nvidia.com/gpu") == (str(gpu.count) if gpu else None)


def test_settings_reach_vllm_as_they_are() -> None:
    given = {"max_model_len": 1000000, "gpu_memory_utilization": 0.85, "reasoning_parser": "qwen3"}
    found = container({"engine": given, "profile": "t4-pair", "servedModelName": "k"})
    settings = next(word for word in found["args"] if word.startswith("--settings=")).partition("=")[2]
    read = EngineSettings.model_validate_json(settings)
    assert read == EngineSettings(tensor_parallel_size=2, **given) and '"max_model_len":1000000' in settings
    assert found["args"][:2] == ["engine", "promoted@demo"] and "--served-model-name=k" in found["args"]


def test_probes_and_drain_fit_the_times() -> None:
    found = container({"startupSeconds": 1802, "gracePeriodSeconds": 100, "takeoverSeconds": 50, "drainSeconds": 5})
    startup = found["startupProbe"]
    assert startup["failureThreshold"] * startup["periodSeconds"] >= 1802
    ready, leaving = found["readinessProbe"]["exec"]["command"], "/tmp/leaving"
    assert ready[2:] == ["/etc/hanforge-serve/ready.py", "http://127.0.0.1:8000", "hanforge", leaving]
    drain = found["lifecycle"]["preStop"]["exec"]["command"]
    assert drain[3:] == ["http://127.0.0.1:8000", "http://demo-serve:8000", leaving, "50", "5", "85"]
    assert {"name": "HANFORGE_LEAVING", "value": leaving} in found["env"]
    alone = container({"rollout": {"maxSurge": 0, "maxUnavailable": 1}})
    assert alone["lifecycle"]["preStop"]["exec"]["command"][-3] == "0"  # there is no room for another
    deployment = one(served({"startupSeconds": 1802}), "Deployment")["spec"]
    assert deployment["progressDeadlineSeconds"] > 1802
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_scaling_goes_by_requests_that_wait() -> None:
    assert one(served({"replicas": 3}), "Deployment")["spec"]["replicas"] == 3
    items = served({"autoscaling": {"by": "hpa", "waitingRequests": 7}})
    assert "replicas" not in one(items, "Deployment")["spec"]
    (metric,) = one(items, "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == "vllm_num_requests_waiting"
    assert metric["pods"]["target"] == {"type": "AverageValue", "averageValue": "7"}
    keda = served({"autoscaling": {"by": "keda", "prometheus": "http://prometheus:9090"}})
    (trigger,) = one(keda, "ScaledObject")["spec"]["triggers"]
    assert trigger["metadata"]["query"] == 'sum(vllm:num_requests_waiting{namespace="apart",service="demo-serve"})'
    assert not any(item["kind"] == "HorizontalPodAutoscaler" for item in keda)


def test_switches() -> None:
    kinds = sorted(item["kind"] for item in served({"disruption": {"enabled": False}}))
    assert kinds == ["ConfigMap", "Deployment", "Service", "ServiceAccount"]
    monitor = one(served(EVERYTHING), "ServiceMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"]["endpoints"] == [{"port": "http", "path": "/metrics", "interval": "15s"}]


def test_the_promotion_is_an_annotation_that_the_pod_reads() -> None:
    env = {entry["name"]: entry for entry in container({})["env"]}
    path = env["HANFORGE_PROMOTION"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.annotations['hanforge.io/promotion']"
    for given, written in (({}, None), ({"promotion": ""}, None), ({"promotion": 3}, "3"), ({"promotion": "3"}, "3")):
        annotations = one(served(given), "Deployment")["spec"]["template"]["metadata"]["annotations"]
        assert annotations.get("hanforge.io/promotion") == written


def test_the_key_comes_from_a_secret() -> None:
    env = {entry["name"]: entry for entry in container({"apiKey": {"secret": "key", "key": "token"}})["env"]}
    assert env["VLLM_API_KEY"]["valueFrom"] == {"secretKeyRef": {"name": "key", "key": "token"}}
    assert "Nobody is asked for an API key" in texts({"model": "m"}, "s", "hanforge-serve")["NOTES.txt"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": ""}, "model is not set"),
        ({"profile": "h1000"}, 'unknown profile "h1000"; valid: .*h100'),
        ({"gracePeriodSeconds": 20}, "leaves no time to answer"),
        ({"autoscaling": {"by": "keda"}}, "autoscaling.prometheus is not set"),
        ({"autoscaling": {"by": "hpa", "minReplicas": 9}}, "minReplicas 9 is over maxReplicas 4"),
        ({"env": [{"name": "API_KEY", "value": "x"}]}, "env API_KEY: a secret is not written into values"),
        ({"modle": "x"}, "'modle' not allowed[^$]*'model'"),
        ({"engine": {"max_modle_len": 1}}, "'max_modle_len' not allowed[^$]*'max_model_len'"),
        ({"engine": {"dtype": "int8"}}, "/engine/dtype"),
    ],
)
def test_what_cannot_work_is_refused_by_name(values: dict[str, Any], words: str) -> None:
    with pytest.raises(HelmError, match=words):
        served(values)


def test_a_long_release_name_is_refused() -> None:
    with pytest.raises(HelmError, match="53 characters, and a Deployment's pods leave room for 52"):
        texts({"model": "m"}, "r" * 53, "hanforge-serve")


def test_the_scripts_are_in_the_configmap() -> None:
    data = one(served({}), "ConfigMap")["data"]
    files = {file["name"]: file["data"] for file in chart("hanforge-serve").files}
    assert {name: data[name] for name in data} == {name: files[f"files/{name}"] for name in ("ready.py", "drain.py")}
    assert json.dumps(data)
