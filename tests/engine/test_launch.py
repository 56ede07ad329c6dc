"""`hanforge engine`: the resolved command, settings from a stage or from JSON, refusals before any start."""

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from pipeline.engine.adapter import lora_arguments
from pipeline.engine.launch import served, settings_from
from pipeline.engine.settings import EngineSettings
from pipeline.errors import UserError
from pipeline.store.objects import Store
from pipeline.store.promotions import promotion_key
from tests.engine.tiny import bare_checkpoint
from tests.merging.stages import commit_folder, locked
from tests.servers.process import ROOT
from tests.teacher.runs import augment_settings, prepared_rows, with_prepared


def engine(store: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "jobs", "engine", *words, "--store", f"file://{store}", "--print"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_a_folder_is_verified_and_its_command_printed(tmp_path: Path) -> None:
    folder = bare_checkpoint(tmp_path / "model")
    done = engine(tmp_path / "store", str(folder), "--port", "9", "--settings", '{"max_model_len": 512}')
    assert done.returncode == 0, done.stderr
    assert "HF_HUB_OFFLINE=1" in done.stdout and "--max-model-len 512" in done.stdout and "--port 9" in done.stdout


@pytest.mark.parametrize(
    ("changes", "settings", "words"),
    [
        ({"architectures": ["NoSuchModel"]}, "{}", "'NoSuchModel' is not in vLLM's registry"),
        ({}, '{"max_modle_len": 512}', "max_modle_len"),
        ({}, '{"max_model_len": 4096}', "over its own 1024 positions"),
    ],
)
def test_what_cannot_be_served_is_exit_2(tmp_path: Path, changes: dict[str, object], settings: str, words: str) -> None:
    folder = bare_checkpoint(tmp_path / "model", **changes)
    done = engine(tmp_path / "store", str(folder), "--settings", settings)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr


def test_a_sidecar_takes_its_settings_from_the_stage_that_it_serves(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path / 'store'}")
    teacher = {"served_model_name": "exaone", "engine": {"max_model_len": 8192}}
    lock = with_prepared(store, prepared_rows(4), {"augment": augment_settings(teacher=teacher)})
    assert settings_from(store, f"{lock.run_id}:augment", None) == (EngineSettings(max_model_len=8192), "exaone")
    with pytest.raises(UserError, match="a prepare stage has no engine"):
        settings_from(store, f"{lock.run_id}:prepare", None)
    with pytest.raises(UserError, match="Give one of them"):
        settings_from(store, f"{lock.run_id}:augment", "{}")


def test_a_sidecar_serves_what_its_stage_asks(tmp_path: Path) -> None:
    folder = bare_checkpoint(tmp_path / "model")
    store = Store(f"file://{tmp_path / 'store'}")
    lock = with_prepared(
        store,
        prepared_rows(4),
        {
            "augment": augment_settings(teacher={"model": str(folder), "served_model_name": "exaone"}),
            "evaluate": {"kind": "evaluate", "model": str(folder), "questions": "agv", "profile": "h100"},
        },
    )
    for name, words in (("augment", "--served-model-name exaone"), ("evaluate", "--dtype bfloat16")):
        assert (served(store, None, f"{lock.run_id}:{name}").folder / "config.json").read_bytes() == (
            folder / "config.json"
        ).read_bytes()
        done = engine(tmp_path / "store", "--for", f"{lock.run_id}:{name}")
        assert done.returncode == 0 and words in done.stdout, done.stderr
    assert settings_from(store, f"{lock.run_id}:evaluate", None)[1] == "model"
    refused = engine(tmp_path / "store")
    assert refused.returncode == 2 and "neither a MODEL nor --for" in refused.stderr


def adapter(folder: Path, **changes: object) -> Path:
    folder.mkdir()
    config = {"r": 24, "peft_type": "LORA", "base_model_name_or_path": "/gone", "use_dora": False, **changes}
    (folder / "adapter_config.json").write_bytes(orjson.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    (folder / "chat_template.jinja").write_text("x")
    return folder


def test_an_adapter_is_served_over_the_base_that_its_run_pinned(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path / 'store'}")
    base = bare_checkpoint(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    stages = {"phase1": {"kind": "train", "base": str(base), "data": str(tmp_path / "rows.jsonl")}}
    lock = locked(store, stages)
    commit_folder(store, lock, "phase1", "adapter", adapter(tmp_path / "adapter"))
    done = engine(tmp_path / "store", f"{lock.run_id}:phase1", "--served-model-name", "k")
    assert done.returncode == 0, done.stderr
    for words in (
        "--served-model-name k-base",
        "--enable-lora --max-lora-rank 32 --lora-modules k=",
        "--chat-template",
    ):
        assert words in done.stdout


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"use_dora": True}, "use_dora"),
        ({"r": 1024}, "rank 512"),
    ],
)
def test_an_adapter_that_vllm_cannot_serve_is_refused(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=f"{words}.*merge stage"):
        lora_arguments(adapter(tmp_path / "adapter", **changes), "k")


def test_a_pod_serves_the_promotion_that_its_annotation_names(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path / 'store'}")
    models = [bare_checkpoint(tmp_path / f"model{n}", max_position_embeddings=1000 + n) for n in (1, 2)]
    for n, folder in enumerate(models, 1):
        lock = locked(store, {"merge": {"kind": "merge", "base": str(folder), "adapter": str(folder)}}, f"r{n}")
        commit_folder(store, lock, "merge", "model", folder)
        record = {"n": n, "recipe": "demo", "run": lock.run_id, "stage": "merge", "by": "test"}
        store.create(promotion_key("demo", n), orjson.dumps(record))
    for number, model in ((None, models[1]), (1, models[0]), (2, models[1])):
        found = served(store, "promoted@demo", None, number).folder / "config.json"
        assert found.read_bytes() == (model / "config.json").read_bytes()
    with pytest.raises(UserError, match="no promotion 3 in .*it has 1, 2"):
        served(store, "promoted", None, 3)
