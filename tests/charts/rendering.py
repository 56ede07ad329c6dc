"""Charts rendered by real Helm, and what Kubernetes and Argo would say of the objects."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate.utils as schemas
import yaml
from helm_python import Chart
from hera.workflows.models import Workflow
from referencing import Registry, Resource

from tests.charts.jobset_schema import FILE as JOBSET

CHARTS = Path(__file__).parent.parent.parent / "charts"
KUBERNETES = "1.34.0"
STORE = {"url": "s3://bucket/folder", "secret": "store-credentials", "endpoint": "http://minio.minio:9000"}
Object = dict[str, Any]


class _NoDuplicates(yaml.CSafeLoader):
    """A key that stands twice is an error here, as in Kubernetes' own strict decoding; Helm lets it pass."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key stands twice: {keys}"
        return super().construct_mapping(node, deep)


@cache
def chart(name: str = "hanforge") -> Chart:
    """The loaded chart, once for all tests."""
    return Chart.load(CHARTS / name)


def texts(values: dict[str, Any], name: str = "rel", of: str = "hanforge") -> dict[str, str]:
    """Each template's text by its file's name, rendered with a store."""
    rendered = chart(of).render({"store": STORE, **values}, name=name, namespace="apart", is_install=True)
    return {path.rsplit("/", 1)[-1]: text for path, text in rendered.items() if not path.endswith(".tpl")}


def objects(values: dict[str, Any], name: str = "rel", of: str = "hanforge") -> list[Object]:
    """Every object that Helm would create."""
    found = texts(values, name, of)
    return [
        item
        for path, text in found.items()
        if path.endswith(".yaml")
        for item in yaml.load_all(text, Loader=_NoDuplicates)
        if item
    ]


def one(items: list[Object], kind: str, name: str = "") -> Object:
    """The only object of a kind whose name contains `name`."""
    found = [item for item in items if item["kind"] == kind and name in item["metadata"]["name"]]
    assert len(found) == 1, [f"{item['kind']}/{item['metadata']['name']}" for item in items]
    return found[0]


def manifests(items: list[Object]) -> dict[str, Object]:
    """By stage the Job that the driver would create; by "chain" what it is told of the chain."""
    data = one(items, "ConfigMap", "-manifests")["data"]
    return {name.removesuffix(".json"): json.loads(text) for name, text in data.items()}


@cache
def _validator(kind: str) -> jsonschema.Draft202012Validator:
    folder = f"kubernetes-json-schema/v{KUBERNETES}-local-strict"
    schema = schemas.schema_contents(f"{folder}/{kind}.json", KUBERNETES)
    definitions = schemas.schema_contents(f"{folder}/_definitions.json", KUBERNETES)
    registry: Any = Resource.from_contents(definitions) @ (Resource.from_contents(schema) @ Registry())
    return jsonschema.Draft202012Validator(schema, registry=registry)


def check_kubernetes(item: Object) -> None:
    """Raise when Kubernetes 1.34, or JobSet, would refuse the object or does not know one of its fields."""
    if item["kind"] == "JobSet":
        jsonschema.Draft202012Validator(json.loads(JOBSET.read_text("utf-8"))).validate(item)
        for replicated in item["spec"]["replicatedJobs"]:
            check_kubernetes({"apiVersion": "batch/v1", "kind": "Job", **replicated["template"]})
        return
    group, _, version = item["apiVersion"].rpartition("/")
    _validator("-".join(part for part in (item["kind"].lower(), group.split(".")[0], version) if part)).validate(item)


def check_pod_spec(spec: Object) -> None:
    """The same of a part of a pod's specification, as Argo's podSpecPatch is one."""
    whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [], **spec}}
    check_kubernetes(whole)


def check_argo(workflow: Object) -> None:
    """Raise when Argo's own models refuse the Workflow, or drop a field that they do not know."""
    understood = Workflow.model_validate(workflow)
    kept = json.loads(understood.model_dump_json(by_alias=True, exclude_unset=True))
    assert kept == workflow
    for template in workflow["spec"]["templates"]:
        if "podSpecPatch" in template:
            check_pod_spec(json.loads(template["podSpecPatch"]))
