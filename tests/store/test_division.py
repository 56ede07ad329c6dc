"""Who takes which unit, and that in a store without create-only writes each unit has one writer."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Stopped
from pipeline.scoring import evaluate
from pipeline.store import division
from pipeline.store.division import share, wait_for_others
from pipeline.store.lease import Lease
from pipeline.store.objects import Store
from pipeline.store.stage import Stage
from pipeline.store.stop import StopFlag
from pipeline.teacher import validate
from pipeline.text import prepare
from tests.merging.test_stage import SHARD_GIB, trained
from tests.scoring.test_evaluate import over_http, sums
from tests.servers.openai_endpoint import openai_server
from tests.store.world import locked as locked_world
from tests.teacher.runs import locked, with_prepared
from tests.teacher.test_validate import rows, validate_settings
from tests.text.stages import chat, jsonl, stages, write_files


@dataclass
class Worker:
    """As much of a stage as the division looks at."""

    store: Store
    index: int
    of: int


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(division, "LOOK_SECONDS", 0.02)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store as the probe leaves one that ignores create-only writes."""
    store = Store(f"file://{tmp_path / 'store'}")
    store.exclusive = False
    return store


def test_units_belong_to_nobody_or_to_one(tmp_path: Path, store: Store) -> None:
    workers: list[Any] = [Worker(store, index, 3) for index in range(3)]
    assert [share(worker, "abcdefg") for worker in workers] == [["a", "d", "g"], ["b", "e"], ["c", "f"]]
    store.exclusive = True
    orders = ["".join(share(worker, "abcdefg")) for worker in workers]
    assert [order[: len(own)] for order, own in zip(orders, ("ab", "cd", "efg"), strict=True)] == ["ab", "cd", "efg"]
    assert all(sorted(order) == list("abcdefg") for order in orders)
    many = [share(worker, range(99)) for worker in workers]
    assert many[0][33:] != sorted(many[0][33:]) and many[0][33:43] != many[1][33:43]


def of_prepare(store: Store, folder: Path) -> Iterator[tuple[Stage, Callable[[Stage], None]]]:
    lines = [chat(f"{number} 더하기 하나?", f"답은 {number + 1}입니다.") for number in range(60)]
    raw = write_files(folder / "raw", {f"{part}.jsonl": jsonl(*lines[part::4]) for part in range(4)})
    settings = {"shard_rows": 7, "heldout": {"rows": 9}, "workers": 1}
    yield stages(store.url, raw, prepare=settings)["prepare"], prepare.run


def of_validate(store: Store, folder: Path) -> Iterator[tuple[Stage, Callable[[Stage], None]]]:
    files = write_files(folder, {f"{part}.jsonl": b"\n".join(rows(9, 3)) for part in range(5)})
    yield Stage(store, locked(store, {"validate": validate_settings(source=str(files))}), "validate"), validate.run


def of_merge(store: Store, folder: Path) -> Iterator[tuple[Stage, Callable[[Stage], None]]]:
    from pipeline.merging.stage import run

    lock, _, _ = trained(store, folder, max_shard_gib=SHARD_GIB)
    yield Stage(store, lock, "merge1"), run


def of_evaluate(store: Store, folder: Path) -> Iterator[tuple[Stage, Callable[[Stage], None]]]:
    from tests.engine.tiny import tiny_qwen3

    with openai_server("--model", "model") as server:
        settings = over_http(server, tiny_qwen3(folder / "model"), sums(folder / "rows.jsonl", 20), unit_rows=4)
        yield Stage(store, locked(store, settings), "scores"), evaluate.run


@pytest.mark.parametrize("kind", [of_prepare, of_validate, of_merge, of_evaluate])
def test_without_create_only_writes_every_unit_has_one_writer(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Callable[..., Any]
) -> None:
    monkeypatch.setenv("HANFORGE_CACHE", str(tmp_path / "cache"))
    for stage, run in kind(store, tmp_path):
        both = [Stage(store, stage.lock, stage.name, index, 2) for index in range(2)]
        threads = [threading.Thread(target=run, args=(worker,)) for worker in both]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        manifest = stage.directory.manifest()
        assert manifest is not None and len(stage.directory.done_names()) > 3
        named = {part.key for parts in manifest.outputs.values() for part in parts}
        assert {entry.key for entry in store.list(stage.directory.key("parts"))} == named


def test_a_worker_that_waits_for_others_can_be_stopped(store: Store) -> None:
    flag = StopFlag()
    flag.request()
    lock = with_prepared(store, rows(3, 0), {"validate": validate_settings()})
    with pytest.raises(Stopped):
        wait_for_others(Stage(store, lock, "validate", 0, 2, flag), lambda: ["00001"])


def test_a_training_says_that_its_lease_keeps_nobody_out(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Lease(locked_world(store, tmp_path).directory(store, "phase1"), StopFlag()):
        assert "the lease keeps nobody out" in caplog.text
