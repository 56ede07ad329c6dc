"""Every shipped recipe on every profile by either engine: objects that Kubernetes and Argo take, the DAG of Python."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from k8s.chain import read_chain
from pipeline.recipe.fingerprint import short_hash
from pipeline.recipe.load import load_recipe, shipped_names
from pipeline.recipe.models import digest, needs
from pipeline.recipe.profiles import profiles
from tests.charts.pod_security import violations
from tests.charts.rendering import check_argo, check_kubernetes, manifests, objects, one, texts

PROFILES = ["", *profiles()]
BUILT_IN = ("v1", "batch/v1", "rbac.authorization.k8s.io/v1", "networking.k8s.io/v1")
SEEN: set[str] = set()


def once(item: dict[str, Any], check: Any) -> None:
    """Check what has not been checked before: on another profile most objects are the same but for names and hashes."""
    plain = json.dumps(item, sort_keys=True)
    for name in (item["metadata"]["name"], *item["metadata"].get("labels", {}).values()):
        plain = plain.replace(json.dumps(name), '"x"')
    if (key := short_hash(plain, 24)) not in SEEN:
        SEEN.add(key)
        check(item)


@pytest.mark.parametrize("recipe_name", shipped_names())
@pytest.mark.parametrize("profile", PROFILES)
def test_jobs(recipe_name: str, profile: str, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_name)
    items = objects({"recipeName": recipe_name, "profile": profile})
    for item in items:
        once(item, check_kubernetes)
    jobs = manifests(items)
    chain = jobs.pop("chain")
    run = f"{recipe.name}-{digest(recipe)}-0"
    assert chain["run"] == run and {stage["name"]: stage["needs"] for stage in chain["stages"]} == needs(recipe)
    assert [stage["name"] for stage in chain["stages"]] == sorted(jobs) == sorted(recipe.stages)
    for name, job in jobs.items():
        once(job, check_kubernetes)
        template = job["spec"]["template"]
        assert list(violations(template["spec"])) == []
        assert template["spec"]["containers"][0]["args"] == ["stage", name]
        for labels in (job["metadata"]["labels"], template["metadata"]["labels"]):
            assert labels["hanforge.io/stage"] == name and labels["hanforge.io/run"] == run
            assert all(re.fullmatch(r"[A-Za-z0-9]([-\w.]{,61}[A-Za-z0-9])?", label) for label in labels.values())
    driver = one(items, "Job", "-driver-")
    assert list(violations(driver["spec"]["template"]["spec"])) == []
    for name, text in one(items, "ConfigMap", "-manifests")["data"].items():
        (tmp_path / name).write_text(text)
    read = read_chain(tmp_path)
    assert all(len(read.job_name(stage)) <= 63 for stage in jobs)
    assert all(len(item["metadata"]["name"]) <= 63 for item in items if item["kind"] == "Job")


@pytest.mark.parametrize("recipe_name", shipped_names())
@pytest.mark.parametrize("profile", PROFILES)
def test_argo(recipe_name: str, profile: str) -> None:
    recipe = load_recipe(recipe_name)
    items = objects({"recipeName": recipe_name, "profile": profile, "engine": "argo"})
    workflow = one(items, "Workflow")
    check_argo(workflow)
    for item in items:
        if item["apiVersion"] in BUILT_IN:
            once(item, check_kubernetes)
    chain, preflight, *templates = workflow["spec"]["templates"]
    plain = {name: name.replace("_", "-") for name in recipe.stages}
    assert sorted(template["name"] for template in templates) == sorted(plain.values())
    tasks = {task["name"]: task for task in chain["dag"]["tasks"]}
    assert tasks.pop("preflight") == {"name": "preflight", "template": "preflight"}
    for name, wanted in needs(recipe).items():
        task = tasks.pop(plain[name])
        assert sorted(task["depends"].split(" && ")) == sorted(["preflight", *(plain[other] for other in wanted)])
        assert task["when"] == f'"{{{{tasks.preflight.outputs.parameters.{name}}}}}" != "done"'
    assert tasks == {}
    assert {output["name"] for output in preflight["outputs"]["parameters"]} == set(recipe.stages)
    jobs = manifests(items)
    for template in templates:
        name = template["container"]["args"][1]
        same_pod(template, jobs[name]["spec"]["template"]["spec"])
        assert list(violations({**template, "containers": [template["container"]]})) == []
        assert template["retryStrategy"]["expression"] == "lastRetry.exitCode != '2' && lastRetry.exitCode != '3'"
    observer = one(items, "Job", "-driver-")["spec"]["template"]["spec"]["containers"][0]
    assert observer["args"] == ["driver", "--observe-only"]


def same_pod(template: dict[str, Any], spec: dict[str, Any]) -> None:
    """An Argo template says what the Job's pod says, in Argo's places."""
    container = {**template["container"], "name": "stage"}
    assert container.pop("command") == ["hanforge"]
    assert [container] == spec["containers"]
    patch = json.loads(template["podSpecPatch"])
    for key, value in spec.items():
        if key not in ("containers", "restartPolicy"):
            assert patch.get(key, template.get(key)) == value, key


def test_the_recipe_arrives_verbatim() -> None:
    text = (Path(__file__).parent.parent.parent / "charts/hanforge/recipes/korean-vla.yaml").read_text("utf-8")
    assert "256000" in text and "565140" in text
    odd = text + '# 1000000 "x" \\ <&> {{ .Values }} 한국어 \U0001f600 \t trailing  \n\n'
    for given, wanted in (({"recipeName": "korean-vla"}, text), ({"recipe": odd}, odd)):
        data = one(objects(given), "ConfigMap", "-recipe-")
        assert data["data"]["recipe.yaml"] == wanted and data["immutable"] is True


def test_rendering_twice_gives_the_same_bytes() -> None:
    for engine in ("jobs", "argo"):
        values = {"recipeName": "korean-vla", "engine": engine, "profiles": {"h100": {"host_memory_gib": 64}}}
        assert texts(values) == texts(values)
