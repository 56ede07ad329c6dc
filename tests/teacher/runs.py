"""Real runs for the tests of augment and validate: prepared rows from a seed, a locked recipe, a real store."""

import random
from typing import Any

import orjson

from pipeline.recipe.load import Document, validated
from pipeline.store.commit import Counts
from pipeline.store.objects import Store
from pipeline.store.pins import resolve
from pipeline.store.runs import RunLock, create_run
from pipeline.store.stage import Stage
from pipeline.text.chatml import Turn
from pipeline.text.examine import content_key
from tests.servers.openai_endpoint import OpenAIServer


def prepared_row(number: int, source: str, multi: bool = False, mark: str = "") -> dict[str, Any]:
    """A sum in Korean, after an earlier turn when `multi`."""
    turns = [Turn("system", "당신은 한국어 조수입니다."), Turn("user", f"{number} 더하기 7은? {mark}".strip())]
    turns.append(Turn("assistant", f"정답: {number + 7}"))
    if multi:
        turns[1:1] = [Turn("user", "안녕하세요"), Turn("assistant", "네, 무엇을 도와드릴까요?")]
    row_id = content_key(turns).hex()
    messages = [turn._asdict() for turn in turns]
    return {"messages": messages, "source": source, "id": row_id, "origin": f"{source}.jsonl:{number}"}


def prepared_rows(count: int, seed: int = 1, marks: dict[int, str] | None = None) -> list[bytes]:
    """`count` rows of three sources, about 60 % of them single-turn; `marks` puts a word into some questions."""
    rng = random.Random(seed)
    rows = [
        prepared_row(n, rng.choice(["maths", "chat", "wiki"]), rng.random() < 0.4, (marks or {}).get(n, ""))
        for n in range(count)
    ]
    return [orjson.dumps(row) for row in rows]


def locked(store: Store, stages: dict[str, dict[str, Any]], inputs: dict[str, Any] | None = None) -> RunLock:
    """A run of a recipe with these stages."""
    recipe = validated(Document({"name": "test", "inputs": inputs or {}, "stages": stages}, {(): "test.yaml"}))
    return create_run(store, resolve(store, recipe))


def augment_settings(**changes: Any) -> dict[str, Any]:
    """An augment stage over stage `prepare`, quick to retry."""
    quick = {"concurrency": 32, "wait_initial_seconds": 0.02, "wait_max_seconds": 0.1, "attempts": 4}
    quick["outage_seconds"] = 5
    base: dict[str, Any] = {
        "kind": "augment", "source": {"stage": "prepare"}, "teacher": {"served_model_name": "teacher"},
        "sample_ratio": 1.0, "unit_rows": 32, "client": quick, "prompt": "{question} (참고: {answer})",
    }  # fmt: skip
    return {**base, **changes}


def with_prepared(store: Store, rows: list[bytes], stages: dict[str, dict[str, Any]], parts: int = 3) -> RunLock:
    """A run whose stage `prepare` is done: it gave these rows, in several parts."""
    lock = locked(store, {"prepare": {"kind": "prepare", "source": str(__file__)}, **stages})
    directory = lock.directory(store, "prepare")
    if directory.manifest() is None:
        size = -(-len(rows) // parts)
        units = [f"{number:05d}" for number in range(parts)]
        directory.plan(lambda: {"units": units})
        for number, unit in enumerate(units):
            mine = rows[number * size : (number + 1) * size]
            with directory.write_rows(unit) as writer:
                for line in mine:
                    writer.write(line)
            directory.commit_unit(unit, {"rows": [writer.committed()]}, Counts(len(mine), len(mine)))
        directory.commit_manifest(units)
    return lock


def run(stage: Stage) -> None:
    """What the stage's process does, without its exit code."""
    import importlib

    module = importlib.import_module(f"jobs.{stage.settings.kind}")
    if hasattr(module, "preflight"):
        module.preflight(stage)
    module.run(stage)


def output(stage: Stage, name: str = "rows") -> list[dict[str, Any]]:
    """The committed rows of an output."""
    manifest = stage.directory.manifest()
    assert manifest is not None
    from pipeline.store.shards import part_lines

    return [orjson.loads(line) for part in manifest.outputs[name] for line in part_lines(stage.store, part)]


def augmented(store: Store, rows: list[bytes], **changes: Any) -> Stage:
    """A finished augment stage over these rows, its settings changed as said."""
    stage = Stage(store, with_prepared(store, rows, {"augment": augment_settings(**changes)}), "augment")
    run(stage)
    return stage


def asked(server: OpenAIServer) -> int:
    """How many chat requests the endpoint has received."""
    return int(server.stats()["received"])
