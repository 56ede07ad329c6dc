"""The stage on tiny models: what it commits, that killing it changes no byte, and what it refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from pipeline.errors import Stopped, UserError
from pipeline.merging.checkpoint import open_checkpoint, weights_digest
from pipeline.store.commit import Manifest
from pipeline.store.pins import resolve
from pipeline.store.progress import read_metrics
from pipeline.store.runs import create_run
from pipeline.store.shards import part_lines
from pipeline.store.stage import Stage
from pipeline.store.stop import StopFlag
from pipeline.training.checkpoints import StoredCheckpoints
from pipeline.training.train import preflight, run
from tests.training.conftest import MakeStage, rows


def done(stage: Stage) -> Manifest:
    run(stage)
    manifest = stage.directory.manifest()
    assert manifest is not None
    return manifest


def file(stage: Stage, manifest: Manifest, name: str) -> Path:
    (part,) = [part for part in manifest.outputs["adapter"] if part.name == name]
    return Path(stage.store.path(part.key))


def test_an_adapter_is_committed_with_all_that_belongs_beside_it(make_stage: MakeStage, qwen3_base: Path) -> None:
    stage = make_stage(qwen3_base, eval_data={"input": "heldout"}, eval_steps=3, report_to=["tensorboard"])
    preflight(stage)
    manifest = done(stage)
    names = {part.name for part in manifest.outputs["adapter"]}
    assert names == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "hanforge.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert (manifest.counts.planned, manifest.counts.ok, manifest.counts.rejected) == (24, 24, {})
    config = json.loads(file(stage, manifest, "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == qwen3_base.name
    record = json.loads(file(stage, manifest, "hanforge.json").read_text())
    assert record["base"]["weights"] == weights_digest(open_checkpoint(qwen3_base))
    for name in names - {"tokenizer.json"}:
        assert str(stage.scratch()).encode() not in file(stage, manifest, name).read_bytes()
    tensors = load_file(file(stage, manifest, "adapter_model.safetensors"))
    assert all(str(tensor.dtype) == "torch.float32" for tensor in tensors.values())
    assert any(name.endswith("q_proj.lora_B.weight") and tensor.abs().sum() > 0 for name, tensor in tensors.items())
    stage.metrics.flush()
    metrics = read_metrics(stage.directory)
    assert [record["step"] for record in metrics if "loss" in record] == [2, 4, 6]
    assert [record["step"] for record in metrics if "eval_loss" in record] == [3, 6]
    assert all(record["tokens"] > 0 and record["tokens_per_second"] > 0 for record in metrics if "loss" in record)
    assert stage.store.list(stage.directory.key("logs", "tensorboard"))
    assert stage.store.list(stage.directory.key("checkpoints")) == []


EMBEDDINGS = {"r": 4, "lora_dropout": 0.1, "modules_to_save": ["embed_tokens", "lm_head"]}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "packed": {"packing": True},
    "grouped, recomputed": {"train_sampling_strategy": "group_by_length", "gradient_checkpointing": True},
    "dora": {"lora": {"r": 4, "lora_dropout": 0.1, "use_dora": True, "use_rslora": True}},
    "embeddings": {"lora": EMBEDDINGS},
    "tied embeddings": {"lora": {**EMBEDDINGS, "ensure_weight_tying": True}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_stopped_and_resumed_gives_the_same_bytes(
    make_stage: MakeStage, qwen3_base: Path, tied_base: Path, tmp_path: Path, variant: str
) -> None:
    base, settings = tied_base if "tied" in variant else qwen3_base, {**VARIANTS[variant], "max_steps": 4}
    whole = done(make_stage(base, store=tmp_path / "undisturbed", **settings))
    flag = StopFlag()
    stage = make_stage(base, stop=flag, **settings)
    update = stage.progress.update

    def stop_at_two(done: int | None = None, **values: Any) -> None:
        update(done=done, **values)
        if done == 2:
            flag.request()

    stage.progress.update = stop_at_two  # type: ignore[method-assign, assignment]
    with pytest.raises(Stopped):
        run(stage)
    # The next process also evaluates and saves more often: neither may change a byte.
    again = make_stage(base, save_steps=1, logging_steps=1, **settings)
    assert again.fingerprint == stage.fingerprint
    resumed = done(again)
    assert resumed.content("adapter") == whole.content("adapter")


KILLED = """
import os, signal, sys
from pipeline.store.objects import Store
from pipeline.store.runs import read_run
from pipeline.store.stage import Stage
from pipeline.training.train import run

store = Store(sys.argv[1])
stage = Stage(store, read_run(store, sys.argv[2]), "phase1")
update = stage.progress.update
def die(done=None, **values):
    update(done=done, **values)
    if done == 4:
        os.kill(os.getpid(), signal.SIGKILL)
def die_at_the_end(*values):
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[3] == "step":
    stage.progress.update = die
else:
    stage.directory.commit_unit = die_at_the_end
run(stage)
"""


@pytest.mark.parametrize("steps", [6, 5])  # the end of an epoch, and max_steps in the middle of one
def test_killed_and_resumed_gives_the_same_bytes(
    make_stage: MakeStage, qwen3_base: Path, tmp_path: Path, steps: int
) -> None:
    evaluated = {"eval_data": {"input": "heldout"}, "max_steps": steps}
    whole = done(make_stage(qwen3_base, store=tmp_path / "undisturbed", **evaluated))
    stage = make_stage(qwen3_base, save_steps=3, **evaluated)
    for moment, step in (("step", 3), ("commit", steps)):
        command = [sys.executable, "-c", KILLED, stage.store.url, stage.run_id, moment]
        killed = subprocess.run(command, env={**os.environ}, check=False, timeout=200)
        assert killed.returncode == -signal.SIGKILL
        assert StoredCheckpoints(stage.directory, lambda: None, 2).complete()[-1].step == step
    assert done(stage).content("adapter") == whole.content("adapter")
    logged = {record["step"] for record in read_metrics(stage.directory) if "loss" in record}
    assert logged == {2, 4, steps - steps % 2}  # none is lost with the process that logged it


def test_external_lines_without_a_conversation_are_rejected_with_their_place(
    make_stage: MakeStage, qwen3_base: Path
) -> None:
    stage = make_stage(qwen3_base, max_steps=1, eval_data={"input": "heldout"})
    for name in ("rows", "heldout"):
        file_path = Path(stage.store.path(f"inputs/{name}/data.jsonl"))
        bad = [b'{"text": "no messages"}', b'{"messages": [', b'{"messages": "one"}', b"\xff", b"[1]"]
        file_path.write_bytes(b"\n".join([*bad, file_path.read_bytes()]))
    lock = resolve(stage.store, stage.lock.recipe)
    again = Stage(stage.store, create_run(stage.store, lock), "phase1")
    manifest = done(again)
    assert (manifest.counts.planned, manifest.counts.ok, manifest.counts.rejected) == (29, 24, {"schema": 5})
    assert manifest.measurements["eval_rows"] == 4
    (part,) = manifest.outputs["rejects"]
    found = [json.loads(line) for line in part_lines(stage.store, part)]
    assert [(row["origin"], row["detail"].split(":")[0]) for row in found] == [
        ("data.jsonl:1", "messages_missing"),
        ("data.jsonl:2", "broken_json"),
        ("data.jsonl:3", "messages_type"),
        ("data.jsonl:4", "not_utf8"),
        ("data.jsonl:5", "row_type"),
    ]
    assert found[0]["line"] == '{"text": "no messages"}' and found[3]["encoding"] == "base64"


def test_what_cannot_be_trained_is_rejected_and_counted(make_stage: MakeStage, qwen3_base: Path) -> None:
    data = rows(6)
    data[1]["messages"][-1]["content"] = "가나다라" * 40
    data[2]["messages"][-1]["content"] = "<think>\n끝이 없다"
    stage = make_stage(qwen3_base, data, max_steps=1)
    manifest = done(stage)
    assert (manifest.counts.planned, manifest.counts.ok) == (6, 4)
    assert manifest.counts.rejected == {"nothing_to_train": 1, "over_long": 1}
    (part,) = manifest.outputs["rejects"]
    rejected = [json.loads(line) for line in part_lines(stage.store, part)]
    assert [(row["reason"], row["origin"]) for row in rejected] == [
        ("over_long", "sums.jsonl:2"),
        ("nothing_to_train", "sums.jsonl:3"),
    ]
    assert json.loads(rejected[0]["line"]) == data[1]


def test_truncated_rows_are_trained_on_and_counted(make_stage: MakeStage, qwen3_base: Path) -> None:
    data = rows(4)
    data[1]["messages"][-1]["content"] = "가나다라" * 40
    manifest = done(make_stage(qwen3_base, data, max_steps=1, over_length="truncate"))
    assert manifest.measurements["truncated_rows"] == 1 and manifest.measurements["length_max"] == 128


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 8}, "system prompt"),
        ({"over_length": "error", "max_length": 48}, "max_length is 48"),
        ({"max_length": 4096}, "512 positions"),
        ({"lora": {"target_modules": ["q_proj", "c_attn"]}}, "c_attn"),
        ({"lora": {"r": 2, "modules_to_save": ["wte"]}}, "wte"),
        ({"lora": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}}, "not tied"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    make_stage: MakeStage, qwen3_base: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(make_stage(qwen3_base, **settings))


def test_a_loss_that_is_no_number_ends_the_stage(make_stage: MakeStage, qwen3_base: Path) -> None:
    stage = make_stage(qwen3_base, learning_rate=1e30, max_grad_norm=0, save_steps=1, max_steps=20)
    with pytest.raises(UserError, match="Lower learning_rate"):
        run(stage)


def test_a_base_without_a_chat_template_is_refused(make_stage: MakeStage, qwen3_base: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(qwen3_base, bare)
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="no chat template"):
        preflight(make_stage(bare))


def test_a_checkpoint_of_another_architecture_is_refused_at_preflight(make_stage: MakeStage, tmp_path: Path) -> None:
    other = tmp_path / "bert"
    other.mkdir()
    (other / "config.json").write_text('{"architectures": ["BertForMaskedLM"], "model_type": "bert"}')
    with pytest.raises(UserError, match="BertForMaskedLM"):
        preflight(make_stage(other))


def test_a_vision_language_model_is_adapted_in_its_language_model_only(make_stage: MakeStage, vl_base: Path) -> None:
    stage = make_stage(vl_base, chat_template="thinking", max_steps=2, gradient_checkpointing=True, packing=True)
    manifest = done(stage)
    tensors = load_file(file(stage, manifest, "adapter_model.safetensors"))
    assert tensors and all(".language_model.layers." in name for name in tensors)
    assert "enable_thinking" in file(stage, manifest, "chat_template.jinja").read_text()


def test_tied_embeddings_trained_in_full_stay_tied(make_stage: MakeStage, tied_base: Path) -> None:
    lora = {"r": 4, "modules_to_save": ["embed_tokens", "lm_head"], "ensure_weight_tying": True}
    stage = make_stage(tied_base, lora=lora, max_steps=3)
    manifest = done(stage)
    tensors = load_file(file(stage, manifest, "adapter_model.safetensors"))
    trained = {name: tensor for name, tensor in tensors.items() if "lora" not in name}
    base = load_file(tied_base / "model.safetensors")["model.embed_tokens.weight"]
    assert trained and all(tensor.shape == base.shape for tensor in trained.values())
    assert all((tensor != base).any() for tensor in trained.values())
    first, *others = trained.values()
    assert all((tensor == first).all() for tensor in others)


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_a_quantised_base_trains_on_the_cpu(make_stage: MakeStage, qwen3_base: Path, quantization: str) -> None:
    stage = make_stage(qwen3_base, quantization=quantization, max_steps=2)
    tensors = load_file(file(stage, done(stage), "adapter_model.safetensors"))
    assert all(str(tensor.dtype) == "torch.float32" for tensor in tensors.values())
    assert any(name.endswith("lora_B.weight") and tensor.abs().sum() > 0 for name, tensor in tensors.items())
