"""A store with rows and a tiny base, and a way to start a train stage over them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from ruamel.yaml import YAML

from pipeline.recipe.load import load_recipe
from pipeline.store.objects import Store
from pipeline.store.pins import resolve
from pipeline.store.runs import create_run
from pipeline.store.stage import Stage
from pipeline.store.stop import StopFlag
from tests.training import checkpoints

MakeStage = Callable[..., Stage]


@pytest.fixture(scope="session")
def qwen3_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.qwen3(tmp_path_factory.mktemp("qwen3"))


@pytest.fixture(scope="session")
def tied_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.qwen3(tmp_path_factory.mktemp("tied"), tied=True)


@pytest.fixture(scope="session")
def vl_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.qwen3_vl(tmp_path_factory.mktemp("qwen3vl"))


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Additions in Korean, every third with reasoning."""
    made = []
    for number in range(start, start + count):
        left, right = number % 17, number % 5
        answer = f"{left + right}"
        if number % 3 == 0:
            answer = f"<think>\n1단계: {left} + {right}\n2단계: {answer}\n</think>\n\n{answer}"
        messages = [
            {"role": "system", "content": "당신은 로봇입니다."},
            {"role": "user", "content": f"{left} 더하기 {right}는?"},
            {"role": "assistant", "content": answer},
        ]
        origin = f"sums.jsonl:{number + 1}"
        made.append({"messages": messages, "source": "sums", "id": f"{number:032x}", "origin": origin})
    return made


TINY: dict[str, Any] = {
    "kind": "train",
    "data": {"input": "rows"},
    "max_length": 128,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-3,
    "max_steps": 6,
    "lora": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1},
    "logging_steps": 2,
    "save_steps": None,
    "save_seconds": None,
    "gradient_checkpointing": False,
    "report_to": [],
}


@pytest.fixture
def make_stage(tmp_path: Path) -> MakeStage:
    """make_stage(base, data=rows, stop=flag, **settings): the train stage of a run in this test's store."""

    def make(
        base: Path,
        data: list[dict[str, Any]] | None = None,
        held_out: list[dict[str, Any]] | None = None,
        stop: StopFlag | None = None,
        store: Path | None = None,
        processes: int = 1,
        **settings: Any,
    ) -> Stage:
        folder = store or tmp_path / "store"
        contents = {"rows": data if data is not None else rows(24), "heldout": held_out or rows(4, 100)}
        for name, content in contents.items():
            (folder / "inputs" / name).mkdir(parents=True, exist_ok=True)
            lines = b"".join(orjson.dumps(row) + b"\n" for row in content)
            (folder / "inputs" / name / "data.jsonl").write_bytes(lines)
        recipe = {
            "name": "tiny",
            "inputs": {"rows": {}, "heldout": {}},
            "stages": {"phase1": {**TINY, "base": str(base), **settings}},
        }
        path = folder / "tiny.yaml"
        with path.open("w") as out:
            YAML().dump(recipe, out)
        # Two threads wait for each other more than they compute on models of this size.
        profiles = folder / "profiles.yaml"
        profiles.write_text(f"one-thread: {{precision: fp32, threads: 1, processes: {processes}}}\n")
        opened = Store(f"file://{folder}")
        lock = resolve(opened, load_recipe(str(path)), profile="one-thread", profiles_file=str(profiles))
        return Stage(opened, create_run(opened, lock), "phase1", stop=stop)

    return make
