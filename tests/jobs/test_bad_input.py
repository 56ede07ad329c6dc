"""Bad input to a whole chain: exit code 2 with one message before the first stage starts, and nothing in the store."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.early import check_early
from jobs.run import pinned
from pipeline.errors import UserError
from pipeline.local.chain import Options
from pipeline.recipe.load import load_recipe
from pipeline.store.objects import Store
from tests.conftest import use_s3
from tests.servers.openai_endpoint import openai_server
from tests.servers.s3 import S3Server
from tests.training.checkpoints import qwen3

RECIPE = """\
name: small
inputs: {raw: {}, base: {}}
stages:
  prepare: {kind: prepare, source: {input: raw}, workers: 1}
  augment:
    kind: augment
    source: {stage: prepare}
    teacher: {served_model_name: teacher, endpoint: "%s"}
    client: {wait_initial_seconds: 0.02, wait_max_seconds: 0.1}
  train: {kind: train, profile: cpu-core, base: {input: base}, data: {stage: prepare}, max_length: 128}
  merge: {kind: merge, adapter: {stage: train}}
  train2: {kind: train, profile: cpu-core, base: {stage: merge}, data: {stage: augment}, max_length: 128}
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint that nothing speaks against."""
    return qwen3(tmp_path_factory.mktemp("checkpoint") / "base")


@pytest.fixture
def base(tmp_path: Path, checkpoint: Path) -> Path:
    """A copy of it, to spoil."""
    return Path(shutil.copytree(checkpoint, tmp_path / "base"))


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The recipe, its raw rows and a cache; nobody listens at the teacher's endpoint."""
    monkeypatch.setenv("HANFORGE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "raw").mkdir()
    row = {"messages": [{"role": "user", "content": "1 더하기 2?"}, {"role": "assistant", "content": "3입니다."}]}
    (tmp_path / "raw" / "a.jsonl").write_text(json.dumps(row) + "\n")
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE % "http://127.0.0.1:9/v1")
    return path


def refused(recipe: Path, *words: str, store: str | None = None) -> str:
    """What `hanforge run` says; it must be a UserError, and leave no run and no stage in the store."""
    folder = recipe.parent
    inputs = ["--input", f"raw={folder / 'raw'}", "--input", f"base={folder / 'base'}"]
    place = store or str(folder / "store")
    result = CliRunner().invoke(app, ["run", str(recipe), "--store", place, *inputs, *words])
    assert isinstance(result.exception, UserError), (result.exception, result.output)
    assert not [path for path in (folder / "store").rglob("*") if path.is_file()]
    return str(result.exception)


def spoil_architecture(base: Path) -> None:
    config = {"architectures": ["BertModel"], "model_type": "bert"}
    (base / "config.json").write_text(json.dumps(config))


def cut_weights(base: Path) -> None:
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (spoil_architecture, "architecture 'BertModel'"),
        (cut_weights, "model.safetensors is cut short"),
        (lambda base: (base / "chat_template.jinja").unlink(), "it has no chat template"),
        (lambda base: (base / "config.json").unlink(), "it has no config.json"),
        (lambda base: (base / "config.json").write_text('{"a": '), "config.json is not JSON"),
        (lambda base: (base / "model.safetensors").unlink(), "it has no weight files"),
        (lambda base: (base / "tokenizer.json").unlink(), "it has no tokenizer"),
    ],
)
def test_a_spoilt_base_is_found_before_anything_runs(recipe: Path, base: Path, spoil: object, expected: str) -> None:
    assert callable(spoil)
    spoil(base)
    said = refused(recipe, "--only", "prepare", "--only", "train")
    assert expected in said and f"file://{base}" in said and "'train'" in said


def test_lengths_are_compared_with_the_base_beforehand(recipe: Path, base: Path) -> None:
    words = ("--only", "prepare", "--only", "train", "--set")
    assert "knows 512 positions" in refused(recipe, *words, "train.max_length=9999")
    prompt = "prepare.system_prompt={mode: add, text: 당신은 물류 로봇을 돕는 도우미입니다.}"
    said = refused(recipe, *words, "train.max_length=20", "--set", prompt)
    assert "the system prompt" in said and "max_length is 20" in said


def test_a_later_phase_is_checked_on_the_base_that_it_goes_back_to(recipe: Path, base: Path) -> None:
    with openai_server("--model", "teacher") as server:
        recipe.write_text(RECIPE % server.url)
        said = refused(recipe, "--set", "train2.max_length=9999")
    assert "'train2'" in said and "knows 512 positions" in said


def test_a_teacher_that_is_not_there_or_another_is_found_beforehand(recipe: Path, base: Path) -> None:
    said = refused(recipe)
    assert "127.0.0.1:9" in said and "Is it up" in said
    with openai_server("--model", "other") as server:
        recipe.write_text(RECIPE % server.url)
        assert "serves ['other'], not 'teacher'" in refused(recipe)


def test_an_adapter_is_not_merged_into_another_base(recipe: Path, base: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(base, tmp_path / "other"))
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-2] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    said = refused(recipe, "--only", "prepare", "--only", "train", "--only", "merge", "--set", f"merge.base={other}")
    assert "'train' was trained on" in said and str(other) in said


def test_a_base_in_an_object_store_is_looked_at_without_its_weights(
    recipe: Path, base: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_s3(monkeypatch, s3.environment())
    inputs = Store(f"s3://{s3.new_bucket()}/models")
    spoil_architecture(base)
    for file in base.iterdir():
        inputs.upload(file.name, file)
    said = refused(recipe, "--only", "prepare", "--only", "train", "--input", f"base={inputs.url}")
    assert "architecture 'BertModel'" in said and inputs.url in said
    assert not list((recipe.parent / "cache").rglob("*.safetensors"))


def test_a_wrong_stage_leaves_no_run_behind(recipe: Path, base: Path) -> None:
    assert "recipe small has no stage 'merg'; did you mean 'merge'" in refused(recipe, "--only", "merg")
    said = refused(recipe, "--only", "merge")
    assert "needs 'train'" in said and "--only train" in said


def test_what_an_earlier_stage_will_make_is_waited_for(recipe: Path, base: Path) -> None:
    store = Store(str(recipe.parent / "store"))
    lock = pinned(store, load_recipe(str(recipe)), [f"raw={recipe.parent / 'raw'}", f"base={base}"])
    check_early(store, lock, Options(only=("prepare", "train", "merge")))
