"""gc: what nobody refers to goes, what a lock or a promotion refers to stays, a cut-short deletion goes on later."""

import os
import threading
import time
from pathlib import Path

import orjson
import pytest

from pipeline.errors import UserError
from pipeline.store import gc
from pipeline.store.events import say
from pipeline.store.gc import carry_out, plan_gc, seconds_of
from pipeline.store.objects import INCOMPLETE, Store
from pipeline.store.runs import run_ids
from tests.store.world import finish_files, finish_rows, locked, rows


def two_runs(store: Store, folder: Path) -> tuple[str, str, str]:
    """Two runs that share the prepare stage; gives their ids and the second's own phase 1 folder."""
    first, second = locked(store, folder), locked(store, folder, "phase1.learning_rate=1e-4")
    finish_rows(store, first, "prepare_phase1", rows(6))
    for lock in (first, second):
        finish_files(store, lock, "phase1", "adapter", {"a.safetensors": lock.run_id.encode() * 100}, folder)
        say(store, lock.run_id, "phase1", "started")
    return first.run_id, second.run_id, second.directory(store, "phase1").prefix


def test_a_named_run_goes_with_what_only_it_refers_to(store_url: str, tmp_path: Path) -> None:
    store = Store(store_url)
    first, second, own = two_runs(store, tmp_path)
    before = {entry.key for entry in store.list("")}
    plan = plan_gc(store, [second])
    assert {folder.prefix for folder in plan.folders} == {own, f"runs/{second}"} and plan.bytes > 0
    assert {entry.key for entry in store.list("")} == before  # planning deletes nothing
    assert carry_out(store, plan) == plan.bytes
    assert run_ids(store) == [first]
    gone = before - {entry.key for entry in store.list("")}
    assert gone and all(key.startswith((own, f"runs/{second}")) for key in gone)
    assert plan_gc(store).folders == []


def test_age_chooses_runs(store_url: str, tmp_path: Path) -> None:
    store = Store(store_url)
    two_runs(store, tmp_path)
    assert plan_gc(store, older_than_seconds=3600).runs == []
    time.sleep(0.01)
    plan = plan_gc(store, older_than_seconds=0.0)
    assert len(plan.runs) == 2
    carry_out(store, plan)
    assert [entry.key for entry in store.list("")] == ["inputs/raw/a.jsonl"]


def test_a_promoted_model_keeps_its_run(store_url: str, tmp_path: Path) -> None:
    store = Store(store_url)
    first, second, _ = two_runs(store, tmp_path)
    store.create("promotions/tiny/1.json", orjson.dumps({"n": 1, "recipe": "tiny", "run": second, "stage": "merge1"}))
    with pytest.raises(UserError, match="promotion 1 of tiny"):
        plan_gc(store, [second])
    plan = plan_gc(store, older_than_seconds=0.0)
    assert plan.runs == [first] and plan.kept == {second: "promotion 1 of tiny is its model"}
    carry_out(store, plan)
    assert store.exists(f"runs/{second}.json")


def test_a_run_with_a_living_process_is_kept(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    lock = locked(store, tmp_path)
    key = lock.directory(store, "phase1").key("progress", "000-a.json")
    store.put(key, orjson.dumps({"state": "running", "stage": "phase1", "time": time.time()}))
    with pytest.raises(UserError, match="'phase1' runs now"):
        plan_gc(store, [lock.run_id])


def test_a_process_whose_clock_is_hours_behind_is_seen_to_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "BEAT_SECONDS", 0.3)
    store = Store(str(tmp_path / "store"))
    lock = locked(store, tmp_path)
    key = lock.directory(store, "phase1").key("progress", "000-a.json")
    record = {"state": "running", "stage": "phase1", "time": time.time() - 7200}
    store.put(key, orjson.dumps(record))
    assert plan_gc(store, [lock.run_id]).runs == [lock.run_id]  # it stands still: killed long ago
    beat = threading.Timer(0.1, store.put, (key, orjson.dumps({**record, "time": record["time"] + 10})))
    beat.start()
    with pytest.raises(UserError, match="'phase1' runs now"):
        plan_gc(store, [lock.run_id])


def test_a_deletion_that_was_cut_short_is_finished_by_the_next(store_url: str, tmp_path: Path) -> None:
    store = Store(store_url)
    first, second, own = two_runs(store, tmp_path)
    store.delete(f"runs/{second}.json")
    plan = plan_gc(store)
    assert {folder.prefix for folder in plan.folders} == {own, f"runs/{second}"}
    carry_out(store, plan)
    assert store.list(own) == [] and run_ids(store) == [first]


def test_a_run_that_begins_between_plan_and_deed_keeps_its_stages(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    _, second, own = two_runs(store, tmp_path)
    plan = plan_gc(store, [second])
    locked(store, tmp_path, "phase1.learning_rate=1e-4", "merge1.max_shard_gib=1")  # another run, the same phase 1
    carry_out(store, plan)
    assert store.exists(f"{own}/_MANIFEST.json")


def test_a_lock_of_another_version_can_be_deleted(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    lock = locked(store, tmp_path)
    record = orjson.loads(store.read(f"runs/{lock.run_id}.json"))
    record.update(version=99, recipe={"unknown": True})
    store.put(f"runs/{lock.run_id}.json", orjson.dumps(record))
    assert plan_gc(store, [lock.run_id]).runs == [lock.run_id]


def test_mirrors_go_only_with_the_run_that_used_them(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    lock = locked(store, tmp_path)
    for commit in ("a" * 40, "b" * 40):
        store.put(f"models/me/mine/{commit}/_MANIFEST.json", b"{}")
    record = orjson.loads(store.read(f"runs/{lock.run_id}.json"))
    record["hub_models"] = {"me/mine": "a" * 40}
    store.put(f"runs/{lock.run_id}.json", orjson.dumps(record))
    carry_out(store, plan_gc(store, [lock.run_id]))
    assert store.folders("models/me/mine") == ["b" * 40]


def test_what_killed_writers_left_on_a_local_disk_goes_after_a_day(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    store.put("kept", b"1")
    old, young = (tmp_path / "store" / INCOMPLETE / name for name in ("old", "young"))
    for file in (old, young):
        file.write_text(file.name)
    os.utime(old, (time.time() - 90_000, time.time() - 90_000))
    plan = plan_gc(store)
    assert [(folder.prefix, folder.bytes) for folder in plan.folders] == [(".incomplete", 3)]
    carry_out(store, plan)
    assert not old.exists() and young.exists() and store.exists("kept")


def test_ages_are_read_with_units() -> None:
    assert [seconds_of(age) for age in ("30d", "12h", "90m", "45s")] == [2592000, 43200, 5400, 45]
    for wrong in ("30", "d", "x9", ""):
        with pytest.raises(UserError, match="--older-than"):
            seconds_of(wrong)
