"""A chain in real pods of the project's own data image: `deploy`, the driver in its pod, two pods of an Indexed Job."""

import json
from pathlib import Path
from typing import Any

import pytest

from k8s.client import JOBS, PODS, Cluster
from pipeline.store.events import events
from pipeline.store.objects import Store
from tests.acceptance.conftest import bucket, here, object_store, values  # noqa: F401
from tests.acceptance.world import give_images, hanforge
from tests.k8s.world import until

pytestmark = pytest.mark.cluster
NODE = "t4-0"
RECIPE = """\
name: pods
inputs: {raw: {}}
stages:
  first: {kind: prepare, source: {input: raw}, heldout: {rows: 4}, workers: 1}
  second: {kind: prepare, source: {input: raw}, exclude_overlap_with: [{stage: first, output: heldout}], workers: 1}
"""
ROWS = [[("user", f"{number} 더하기 하나는?"), ("assistant", f"답은 {number + 1}입니다.")] for number in range(40)]


def test_a_chain_in_pods_ends_done_though_its_driver_is_deleted(
    here: Cluster, bucket: Store, values: dict[str, Any], tmp_path: Path  # noqa: F811
) -> None:
    give_images(NODE, "data")
    rows = [{"messages": [{"role": role, "content": text} for role, text in pair]} for pair in ROWS]
    bucket.put("inputs/raw/a.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    recipe, file = tmp_path / "pods.yaml", tmp_path / "values.yaml"
    recipe.write_text(RECIPE)
    placed = {"nodeSelector": {"kubernetes.io/hostname": NODE}, "workers": {"first": 2}}
    file.write_text(json.dumps(values | placed))
    said = hanforge("deploy", "chain", str(recipe), "-n", here.namespace, "-f", str(file))
    assert said.exit_code == 0, said.exception
    until(lambda: here.list(JOBS, "hanforge.io/stage=first")["items"])
    for pod in here.list(PODS, "app.kubernetes.io/component=driver")["items"]:
        here.delete(PODS, pod["metadata"]["name"])
    drivers = "app.kubernetes.io/component=driver"

    def ended() -> bool:
        conditions = here.list(JOBS, drivers)["items"][0].get("status", {}).get("conditions") or ()
        return any(each["type"] in ("Complete", "Failed") for each in conditions)

    until(ended, 240)
    output = hanforge("why").output
    assert "all 2 stages" in output, (output, hanforge("why", "--release", "pods", "-n", here.namespace).output)
    run = hanforge("status", "--json")
    assert [stage["state"] for stage in json.loads(run.output)["stages"]] == ["done", "done"]
    seen = [event for event in events(bucket, json.loads(run.output)["run"]) if event.what == "observed"]
    assert sorted((event.stage, event.exit_code) for event in seen) == [("first", 0), ("first", 0), ("second", 0)]
