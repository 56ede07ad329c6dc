"""A chain in real pods of the project's own data image: `deploy`, the driver in its pod, two pods of an Indexed Job."""

import json
import subprocess
from pathlib import Path

import pytest

from k8s.client import JOBS, PODS, SECRETS, Cluster
from pipeline.store.events import events
from pipeline.store.objects import Store
from tests.cluster import nodes
from tests.cluster.conftest import object_store  # noqa: F401
from tests.conftest import use_s3
from tests.k8s.test_deploy import hanforge
from tests.k8s.world import until
from tests.servers.s3 import S3Server

pytestmark = pytest.mark.cluster
IMAGE, NODE = "hanforge-data:latest", "t4-0"
RECIPE = """\
name: pods
inputs: {raw: {}}
stages:
  first: {kind: prepare, source: {input: raw}, heldout: {rows: 4}, workers: 1}
  second: {kind: prepare, source: {input: raw}, exclude_overlap_with: [{stage: first, output: heldout}], workers: 1}
"""
VALUES = {
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    "nodeSelector": {"kubernetes.io/hostname": NODE},
    "workers": {"first": 2},
    "images": {"data": IMAGE},
    "stages": {"first": {"memory": "1Gi", "cpu": "100m"}, "second": {"memory": "1Gi", "cpu": "100m"}},
}


@pytest.fixture
def image() -> str:
    """The data image, on the node."""
    built = subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, check=False)
    if built.returncode:
        pytest.skip(f"NO IMAGE {IMAGE}: run `make images` first")
    if not any(IMAGE in name for name in nodes.images(NODE)):
        nodes.load_image(IMAGE, NODE)
    return IMAGE


@pytest.fixture
def store(here: Cluster, object_store: S3Server, monkeypatch: pytest.MonkeyPatch) -> Store:  # noqa: F811
    """A bucket that pods and this process reach alike, with 40 rows, its credentials in a Secret."""
    environment = object_store.environment()
    use_s3(monkeypatch, environment)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, "stringData": environment}
    here.create(SECRETS, secret)
    found = Store(f"s3://{object_store.new_bucket()}/store")
    texts = [[("user", f"{number} 더하기 하나는?"), ("assistant", f"답은 {number + 1}입니다.")] for number in range(40)]
    rows = [{"messages": [{"role": role, "content": text} for role, text in pair]} for pair in texts]
    found.put("inputs/raw/a.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    return found


def test_a_chain_in_pods_ends_done_though_its_driver_is_deleted(
    here: Cluster, store: Store, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, values = tmp_path / "pods.yaml", tmp_path / "values.yaml"
    recipe.write_text(RECIPE)
    values.write_text(json.dumps(VALUES | {"store": {"url": store.url, "secret": "s3"}}))
    said = hanforge("deploy", "chain", str(recipe), "-n", here.namespace, "-f", str(values))
    assert said.exit_code == 0, said.exception
    until(lambda: here.list(JOBS, "hanforge.io/stage=first")["items"])
    for pod in here.list(PODS, "app.kubernetes.io/component=driver")["items"]:
        here.delete(PODS, pod["metadata"]["name"])
    drivers = "app.kubernetes.io/component=driver"
    monkeypatch.setenv("HANFORGE_STORE", store.url)

    def ended() -> bool:
        conditions = here.list(JOBS, drivers)["items"][0].get("status", {}).get("conditions") or ()
        return any(each["type"] in ("Complete", "Failed") for each in conditions)

    until(ended, 240)
    output = hanforge("why").output
    assert "all 2 stages" in output, (output, hanforge("why", "--release", "pods", "-n", here.namespace).output)
    run = hanforge("status", "--json")
    assert [stage["state"] for stage in json.loads(run.output)["stages"]] == ["done", "done"]
    seen = [event for event in events(store, json.loads(run.output)["run"]) if event.what == "observed"]
    assert sorted((event.stage, event.exit_code) for event in seen) == [("first", 0), ("first", 0), ("second", 0)]
