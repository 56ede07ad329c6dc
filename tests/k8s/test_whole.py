"""A recipe from `deploy` to done: real chart, Helm and API server; the driver and the stage run here, not in pods."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from k8s.client import CONFIGMAPS, JOBS, Cluster
from pipeline.store.objects import Store
from tests.acceptance.world import hanforge
from tests.k8s.test_deploy import VALUES
from tests.k8s.world import until

pytestmark = pytest.mark.cluster
RECIPE = """\
name: small
inputs: {raw: {}}
stages:
  prepare_all: {kind: prepare, source: {input: raw}, workers: 1}
"""


def rows() -> bytes:
    pairs = [("user", "하나 더하기 둘은?"), ("assistant", "셋입니다.")]
    messages = [{"role": role, "content": content} for role, content in pairs]
    return json.dumps({"messages": messages}, ensure_ascii=False).encode() + b"\n"


def run(*words: str) -> "subprocess.Popen[bytes]":
    """A process of hanforge's, as a container of it would run."""
    return subprocess.Popen([sys.executable, "-m", "jobs", *words], env=dict(os.environ))


def test_a_chain_from_deploy_to_done(here: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(f"file://{tmp_path / 'store'}")
    store.put("inputs/raw/a.jsonl", rows())
    recipe, values, mounted = tmp_path / "small.yaml", tmp_path / "values.yaml", tmp_path / "mounted"
    recipe.write_text(RECIPE)
    values.write_text(VALUES.replace("s3://bucket/store", store.url).replace("SECRET", '""'))
    said = hanforge("deploy", "chain", str(recipe), "-n", here.namespace, "-f", str(values))
    assert said.exit_code == 0, said.output
    mounted.mkdir()
    for item in here.list(CONFIGMAPS)["items"]:
        for name, text in item["data"].items():
            (mounted / name).write_text(text)
    monkeypatch.setenv("HANFORGE_STORE", store.url)
    monkeypatch.setenv("HANFORGE_TERMINATION_LOG", str(tmp_path / "last"))
    driver = run("driver", "--recipe", str(mounted / "recipe.yaml"), "--manifests", str(mounted), "-n", here.namespace)
    jobs = until(lambda: here.list(JOBS, "hanforge.io/stage=prepare_all")["items"])
    run_id = jobs[0]["metadata"]["labels"]["hanforge.io/run"]
    status = json.loads(hanforge("status", "--json").output)
    assert status["run"] == run_id and status["stages"][0]["state"] == "ready"
    assert run("stage", "prepare_all", "--run", run_id).wait() == 0
    assert driver.wait(90) == 0
    assert hanforge("why").output == f"all 1 stages of run {run_id} are done\n"
    states = tmp_path / "states"
    words = ("--recipe", str(mounted / "recipe.yaml"), "--manifests", str(mounted), "--preflight-only", str(states))
    assert run("driver", *words).wait() == 0
    assert (states / "prepare_all").read_text() == "done"
