"""The serve stage with a real child process in vLLM's place: it proves the highest promotion, each later one anew."""

import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from pipeline.engine.serve import Deployed, preflight, run
from pipeline.errors import UserError
from pipeline.recipe.load import Document, validated
from pipeline.store.commit import Counts
from pipeline.store.objects import Store
from pipeline.store.pins import resolve
from pipeline.store.runs import RunLock, create_run
from pipeline.store.stage import Stage
from pipeline.store.standing import standing
from tests.engine.tiny import bare_checkpoint
from tests.servers.openai_endpoint import openai_server


def scripted_server(model: Path, settings: Any, *, served_name: str, host: str, port: int) -> list[str]:
    return [sys.executable, "-m", "tests.servers.openai_endpoint", "--port", str(port), "--model", served_name]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A run whose merge is done; nothing is promoted yet."""
    monkeypatch.setattr("pipeline.engine.server.command", scripted_server)
    monkeypatch.setenv("HANFORGE_CACHE", str(tmp_path / "cache"))
    model = bare_checkpoint(tmp_path / "model")
    stages = {
        "merge": {"kind": "merge", "base": str(model), "adapter": str(model)},
        "evaluate": {"kind": "evaluate", "model": {"stage": "merge"}, "questions": "agv"},
        "promote": {"kind": "promote", "model": {"stage": "merge"}, "scores": {"stage": "evaluate"}},
        "serve": {
            "kind": "serve",
            "promotion": {"stage": "promote"},
            "question": "3 더하기 4는?",
            "enable_thinking": True,
        },
    }
    store = Store(f"file://{tmp_path / 'store'}")
    lock = create_run(store, resolve(store, validated(Document({"name": "test", "stages": stages}, {(): "test.yaml"}))))
    directory = lock.directory(store, "merge")
    directory.plan(lambda: {"units": ["all"]})
    directory.commit_unit("all", {"model": directory.write_directory("all", model)}, Counts())
    directory.commit_manifest(["all"])
    return Stage(store, lock, "serve")


def is_done(stage: Stage) -> bool:
    return standing(stage.store, stage.lock, stage.name).done


def promote(store: Store, lock: RunLock, number: int) -> None:
    record = {"n": number, "recipe": "test", "run": lock.run_id, "stage": "merge"}
    assert store.create(f"promotions/test/{number}.json", orjson.dumps(record))


def test_nothing_promoted_is_the_users_to_mend(stage: Stage) -> None:
    assert not is_done(stage)
    with pytest.raises(UserError, match="nothing is promoted"):
        preflight(stage)


def test_the_proof_names_the_promotion_and_a_new_one_wants_a_new_proof(stage: Stage) -> None:
    promote(stage.store, stage.lock, 1)
    preflight(stage)
    run(stage)
    manifest = stage.directory.manifest()
    assert is_done(stage) and manifest is not None
    proof = orjson.loads(stage.store.read(manifest.outputs["proof"][0].key))
    assert proof["promotion"]["n"] == 1 and proof["question"] == "3 더하기 4는?"
    assert (proof["answer"], proof["reasoning"]) == (
        "정답: 7",
        "1단계: 3 더하기 4는? 살펴봅니다.\n2단계: 값은 7입니다.",
    )
    promote(stage.store, stage.lock, 2)
    assert not is_done(stage)
    run(stage)
    assert is_done(stage)
    assert orjson.loads(stage.store.read(stage.directory.key("proofs", "2.json")))["promotion"]["n"] == 2


def test_a_deployment_is_rolled_and_asked_in_place_of_a_server_of_ones_own(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.engine.server.command", None)  # nothing is started here
    promote(stage.store, stage.lock, 4)
    rolled: list[int] = []
    with openai_server("--model", "hanforge") as server:
        run(stage, Deployed(server.url, "hanforge", lambda n, stop_requested: rolled.append(n)))
    assert rolled == [4] and is_done(stage)
    proof = orjson.loads(stage.store.read(stage.directory.key("proofs", "4.json")))
    assert proof["promotion"]["n"] == 4 and proof["answer"] == "정답: 7"
