"""Promotions: judged, numbered, raced for, rolled back."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import GateRefused, UserError
from pipeline.scoring.promote import Candidate, promote, promote_named, rollback
from pipeline.scoring.verdict import Bound
from pipeline.store.commit import Counts
from pipeline.store.named import named_model
from pipeline.store.objects import Store
from pipeline.store.promotions import newest_promotion, promotions
from pipeline.store.runs import RunLock
from pipeline.store.stage import Stage
from pipeline.store.standing import check_gate, is_done
from tests.merging.stages import commit_folder, locked

LIMITS = {"data.off.exact": Bound(min=0.9)}


def candidate(run: str, exact: float, **rules: Any) -> Candidate:
    return Candidate(run, "merge2", "promote", {"data.off.exact": exact}, **rules)


def test_a_limit_refuses_and_says_by_how_much(store_url: str) -> None:
    store = Store(store_url)
    with pytest.raises(GateRefused, match=r"r1:merge2 is not promoted: data.off.exact is 0\.850, 0\.050 under its min"):
        promote(store, "demo", candidate("r1", 0.85, limits=LIMITS))
    assert promotions(store, "demo") == []
    with pytest.raises(GateRefused, match=r"data.on.tags was not measured"):
        promote(store, "demo", candidate("r1", 0.95, limits={"data.on.tags": Bound(min=0.5)}))
    assert promote(store, "demo", candidate("r1", 0.95, limits=LIMITS))["n"] == 1


def test_a_worse_model_does_not_replace_a_better_one(store_url: str) -> None:
    store = Store(store_url)
    promote(store, "demo", candidate("r1", 0.95))
    with pytest.raises(GateRefused, match=r"0.050 worse than the promoted model's 0.950; max_drop is 0.02"):
        promote(store, "demo", candidate("r2", 0.90, max_drop={"data.off.exact": 0.02}))
    second = promote(store, "demo", candidate("r3", 0.94, max_drop={"data.off.exact": 0.02}))
    assert (second["n"], second["replaces"]) == (2, 1)
    fewer = Candidate("r4", "m", "p", {"data.off.chinese": 0.3}, max_drop={"data.off.chinese": 0.1})
    promote(store, "demo", Candidate("r4", "m", "p", {"data.off.chinese": 0.1}))
    with pytest.raises(GateRefused, match=r"0.200 worse"):
        promote(store, "demo", fewer)


def test_a_rollback_is_a_new_number(store_url: str) -> None:
    store = Store(store_url)
    with pytest.raises(UserError, match="nothing is promoted"):
        rollback(store, "demo")
    promote(store, "demo", candidate("r1", 0.95))
    with pytest.raises(UserError, match="no earlier model"):
        rollback(store, "demo")
    promote(store, "demo", candidate("r2", 0.96))
    promote(store, "demo", candidate("r3", 0.97))
    back = rollback(store, "demo")
    assert (back["n"], back["run"], back["rollback_to"], back["scores"]) == (4, "r2", 2, {"data.off.exact": 0.96})
    assert newest_promotion(store, "demo")["run"] == "r2"
    assert rollback(store, "demo", 1)["run"] == "r1"
    assert [record["n"] for record in promotions(store, "demo")] == [1, 2, 3, 4, 5]
    with pytest.raises(UserError, match="no promotion 9"):
        rollback(store, "demo", 9)


def test_a_race_has_one_winner_a_number_and_nobody_is_lost(store_url: str) -> None:
    barrier = threading.Barrier(4)

    def race(run: str) -> None:
        store = Store(store_url)
        barrier.wait()
        promote(store, "demo", candidate(run, 0.95))

    with ThreadPoolExecutor(4) as racers:
        list(racers.map(race, ["r0", "r1", "r2", "r3"]))
    records = promotions(Store(store_url), "demo")
    assert [record["n"] for record in records] == [1, 2, 3, 4]
    assert sorted(record["run"] for record in records) == ["r0", "r1", "r2", "r3"]


def chain(store: Store, tmp_path: Path, exact: float = 0.95, **promotion: Any) -> RunLock:
    """A run whose model is merged and scored by hand, before its promote stage."""
    for name in ("base", "adapter"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "config.json").write_text("{}")
    model = {"stage": "merge2"}
    stages = {
        "merge2": {"kind": "merge", "adapter": str(tmp_path / "adapter"), "base": str(tmp_path / "base")},
        "scores": {"kind": "evaluate", "model": model, "questions": "agv", "seed": int(exact * 1000)},
        "promote": {"kind": "promote", "model": model, "scores": {"stage": "scores"}, **promotion},
    }
    lock = locked(store, stages, "demo")
    if lock.directory(store, "merge2").manifest() is None:
        commit_folder(store, lock, "merge2", "model", tmp_path / "base")
    directory = lock.directory(store, "scores")
    directory.commit_unit("scores", {}, Counts())
    identity = Stage(store, lock, "promote").identity(lock.settings("promote").model)
    directory.commit_manifest(["scores"], {"scores": {"data.off.exact": exact}, "model": identity})
    return lock


def test_the_stage_promotes_once_for_its_run(tmp_path: Path) -> None:
    from jobs import promote as job

    store = Store(f"file://{tmp_path / 'store'}")
    lock = chain(store, tmp_path, limits={"data.off.exact": {"min": 0.9}})
    stage = Stage(store, lock, "promote")
    assert not is_done(store, lock, "promote")
    job.preflight(stage)
    job.run(stage)
    job.run(Stage(store, lock, "promote"))
    assert is_done(store, lock, "promote")
    (record,) = promotions(store, "demo")
    assert (record["run"], record["stage"], record["by"]) == (lock.run_id, "merge2", "promote")
    assert named_model(store, "promoted").stage == "merge2"
    manifest = lock.directory(store, "promote").manifest()
    assert manifest is not None and manifest.measurements["n"] == 1
    check_gate(lock, "promote", manifest)


def test_a_reader_with_a_stricter_limit_is_refused_by_the_stored_scores(tmp_path: Path) -> None:
    """The limit is operational: the same result lies in the same folder, and the verdict is the reader's own."""
    from jobs import promote as job

    store = Store(f"file://{tmp_path / 'store'}")
    lock = chain(store, tmp_path)
    job.run(Stage(store, lock, "promote"))
    strict = chain(store, tmp_path, limits={"data.off.exact": {"min": 0.99}})
    assert strict.stages["promote"].fingerprint == lock.stages["promote"].fingerprint
    stage = Stage(store, strict, "promote")
    assert not is_done(store, strict, "promote")
    with pytest.raises(GateRefused, match=r"0.040 under"):
        job.run(stage)
    manifest = strict.directory(store, "promote").manifest()
    assert manifest is not None
    with pytest.raises(GateRefused, match=r"0.040 under"):
        check_gate(strict, "promote", manifest)


def test_the_command_obeys_the_recipes_limits(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path / 'store'}")
    lock = chain(store, tmp_path, limits={"data.off.exact": {"min": 0.9}})
    assert promote_named(store, named_model(store, f"{lock.run_id}:merge2"))["by"] == "command"
    worse = chain(store, tmp_path, 0.5, limits={"data.off.exact": {"min": 0.9}})
    with pytest.raises(GateRefused, match=r"0.400 under"):
        promote_named(store, named_model(store, f"{worse.run_id}:merge2"))
    with pytest.raises(UserError, match="is no stage's output"):
        promote_named(store, named_model(store, str(tmp_path / "base")))
    with pytest.raises(UserError, match="no earlier model"):
        rollback(store, "demo")
