"""The local driver with real processes: order, narrowing, Ctrl-C and going on, kills, refusals."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from pipeline.store.events import events
from pipeline.store.objects import Store
from pipeline.store.runs import find_run
from pipeline.store.status import chain_status
from tests.servers.openai_endpoint import OpenAIServer, openai_server

RECIPE = """\
name: small
inputs: {raw: {}}
stages:
  prepare: {kind: prepare, source: {input: raw}, workers: 1}
  augment:
    kind: augment
    source: {stage: prepare}
    teacher: {served_model_name: teacher}
    sample_ratio: 1.0
    prompt: "{question}"
    flush_rows: 8
    client: {concurrency: 8, wait_initial_seconds: 0.02, wait_max_seconds: 0.1}
  validate: {kind: validate, source: {stage: augment}, limits: {min_rows: 10}, num_samples: 0}
"""


@pytest.fixture
def teacher() -> Iterator[OpenAIServer]:
    with openai_server() as server:
        yield server


@pytest.fixture
def recipe(tmp_path: Path, teacher: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """A recipe of three stages, 120 raw rows in the store, and the teacher's address in the environment."""
    monkeypatch.setenv("HANFORGE_TEACHER_ENDPOINT", teacher.url)
    monkeypatch.setenv("HANFORGE_CACHE", str(tmp_path / "cache"))
    raw = tmp_path / "store" / "inputs" / "raw"
    raw.mkdir(parents=True)
    pairs = [(f"{number} 더하기 {number + 1}은 얼마입니까?", f"답은 {2 * number + 1}입니다.") for number in range(120)]
    rows = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in pairs
    ]
    (raw / "sums.jsonl").write_bytes(b"\n".join(orjson.dumps(row) for row in rows))
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE, "utf-8")
    return str(path)


def started(recipe: str, *options: str) -> "subprocess.Popen[str]":
    store = Path(recipe).parent / "store"
    words = [sys.executable, "-m", "jobs", "run", recipe, "--store", str(store), *options]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)


def hanforge_run(recipe: str, *options: str) -> tuple[int, str]:
    """The exit code and what was said on stderr."""
    process = started(recipe, *options)
    said = process.communicate(timeout=120)[1]
    return process.returncode, said


def states(recipe: str) -> dict[str, str]:
    store = Store(str(Path(recipe).parent / "store"))
    return {status.name: status.state for status in chain_status(store, find_run(store, "latest"))}


def starts(recipe: str) -> list[str]:
    """The stages of the newest run in the order in which processes began."""
    store = Store(str(Path(recipe).parent / "store"))
    return [event.stage for event in events(store, find_run(store, "latest").run_id) if event.what == "started"]


def test_a_chain_runs_in_order_and_a_second_run_has_nothing_to_do(recipe: str, teacher: OpenAIServer) -> None:
    code, said = hanforge_run(recipe)
    assert code == 0, said
    assert starts(recipe) == ["prepare", "augment", "validate"]
    assert set(states(recipe).values()) == {"done"}
    asked = teacher.stats()["received"]
    code, said = hanforge_run(recipe)
    assert code == 0 and teacher.stats()["received"] == asked
    assert starts(recipe) == ["prepare", "augment", "validate"]  # no process was started for what is done


def test_a_changed_setting_reruns_its_stage_and_what_follows(recipe: str) -> None:
    assert hanforge_run(recipe)[0] == 0
    code, said = hanforge_run(recipe, "--set", "validate.checks.min_answer_characters=3")
    assert code == 0, said
    assert starts(recipe) == ["validate"]


def test_ctrl_c_saves_and_a_second_run_goes_on(recipe: str, teacher: OpenAIServer) -> None:
    teacher.control(latency_seconds=0.5)
    process = started(recipe)
    while teacher.stats()["received"] < 40:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 143, said
    assert states(recipe)["augment"] == "stopped"
    teacher.control(latency_seconds=0.0)
    code, said = hanforge_run(recipe)
    assert code == 0, said
    assert max(teacher.stats()["answered"].values()) == 1  # nothing was paid for twice


def test_a_killed_stage_is_started_again(recipe: str, teacher: OpenAIServer) -> None:
    teacher.control(latency_seconds=0.3)
    process = started(recipe)
    while teacher.stats()["received"] < 20:
        time.sleep(0.05)
    store = Store(str(Path(recipe).parent / "store"))
    began = [event for event in events(store, find_run(store, "latest").run_id) if event.what == "started"]
    os.kill(began[-1].facts["pid"], signal.SIGKILL)
    teacher.control(latency_seconds=0.0)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 0, said
    assert starts(recipe) == ["prepare", "augment", "augment", "validate"]
    observed = [event for event in events(store, find_run(store, "latest").run_id) if event.what == "observed"]
    assert [(event.exit_code, event.message) for event in observed] == [(137, "its process was killed by SIGKILL")]


def test_a_refused_gate_is_exit_3_and_a_changed_limit_needs_no_new_work(recipe: str) -> None:
    code, said = hanforge_run(recipe, "--set", "validate.limits.min_rows=500")
    assert code == 3 and "500" in said and "120" in said
    assert states(recipe)["validate"] == "refused"
    assert hanforge_run(recipe, "--set", "validate.limits.min_rows=500")[0] == 3  # a second time too
    assert hanforge_run(recipe, "--set", "validate.limits.min_rows=120")[0] == 0
    assert starts(recipe) == []


def test_only_needs_its_upstream_and_says_how_to_make_it(recipe: str) -> None:
    code, said = hanforge_run(recipe, "--only", "augment")
    assert code == 2 and "--only prepare" in said
    assert hanforge_run(recipe, "--only", "prepare")[0] == 0
    assert hanforge_run(recipe, "--only", "augment")[0] == 0
    assert states(recipe) == {"prepare": "done", "augment": "done", "validate": "ready"}
