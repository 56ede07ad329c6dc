"""Whether a stage is done has one answer: status, plan, why, the driver and the stage's own process give it alike."""

from pathlib import Path

import orjson
import pytest

from pipeline.errors import GateRefused, UserError
from pipeline.local.chain import check_upstream
from pipeline.recipe.load import load_recipe
from pipeline.reporting.plan import StagePlan, plan_of
from pipeline.reporting.why import reasons
from pipeline.store.objects import Store
from pipeline.store.pins import resolve
from pipeline.store.promotions import newest_promotion, promotion_key
from pipeline.store.runs import RunLock, create_run, known_run
from pipeline.store.standing import is_done, standing
from pipeline.store.status import chain_status, why_not_done
from tests.reporting.chain import build


def again(store: Store, folder: Path, *sets: str) -> RunLock:
    """A run of the same recipe with other settings."""
    return create_run(store, resolve(store, load_recipe(str(folder / "recipe.yaml"), sets=list(sets))))


def planned(store: Store, folder: Path, *sets: str) -> dict[str, StagePlan]:
    plan = plan_of(load_recipe(str(folder / "recipe.yaml"), sets=list(sets)), store.url, {})
    return {stage.name: stage for stage in plan.stages}


def states(store: Store, lock: RunLock) -> dict[str, str]:
    return {status.name: status.state for status in chain_status(store, lock)}


def test_what_is_done_is_done_for_everybody(tmp_path: Path) -> None:
    store, lock = build(tmp_path)
    assert set(states(store, lock).values()) == {"done"}
    assert all(is_done(store, lock, name) and why_not_done(store, lock, name) == "done" for name in lock.stages)
    assert all(stage.done for stage in planned(store, tmp_path).values())


def test_another_runs_promotion_is_not_this_runs(tmp_path: Path) -> None:
    """A limit is operational: the new run shares the manifest, but has promoted nothing."""
    store, lock = build(tmp_path)
    change = "promote.limits.data.on.exact.min=0.1"
    new = again(store, tmp_path, change)
    assert new.stages["promote"].fingerprint == lock.stages["promote"].fingerprint
    assert not is_done(store, new, "promote") and is_done(store, new, "serve")
    assert states(store, new) == {**dict.fromkeys(new.stages, "done"), "promote": "ready"}
    open_work = "this run has promoted nothing yet"
    assert why_not_done(store, new, "promote") == planned(store, tmp_path, change)["promote"].why == open_work
    assert not planned(store, tmp_path, change)["promote"].done
    (said,) = reasons(store, new)
    assert said.startswith(f"promote: all it needs is done, it was not started in this run ({open_work}).")
    with pytest.raises(UserError, match=f"'serve' needs 'promote', which is not done: {open_work}"):
        check_upstream(store, new, {"serve"})
    check_upstream(store, lock, {"serve"})


def test_a_later_promotion_wants_a_proof_of_its_own(tmp_path: Path) -> None:
    store, lock = build(tmp_path)
    record = {**newest_promotion(store), "n": 2, "by": "command"}
    assert store.create(promotion_key(lock.recipe.name, 2), orjson.dumps(record))
    assert not is_done(store, lock, "serve") and is_done(store, lock, "promote")
    assert states(store, lock)["serve"] == "ready"  # its process ended well, and there is new work
    assert planned(store, tmp_path)["serve"].why == "promotion 2 has not answered yet"


def test_a_gate_is_judged_again_by_whoever_asks(tmp_path: Path) -> None:
    store, _ = build(tmp_path)
    change = "validate.limits.min_pass_rate=1.0"
    strict = again(store, tmp_path, change)
    found = standing(store, strict, "validate")
    assert found.manifest is not None and not found.open and not found.done
    with pytest.raises(GateRefused, match="gate 'validate' refuses"):
        is_done(store, strict, "validate")
    with pytest.raises(GateRefused, match="gate 'validate' refuses"):
        check_upstream(store, strict, {"phase2"})
    assert states(store, strict)["validate"] == "refused"
    shown = planned(store, tmp_path, change)["validate"]
    assert not shown.done and shown.why == found.refusals[0]


def test_a_run_is_known_before_it_is_asked_for_again(tmp_path: Path) -> None:
    store, lock = build(tmp_path, until="prepare")
    recipe = load_recipe(str(tmp_path / "recipe.yaml"))
    found = known_run(store, resolve(store, recipe))
    assert found is not None and found.run_id == lock.run_id
    assert known_run(store, resolve(store, load_recipe(str(tmp_path / "recipe.yaml"), sets=["phase1.seed=9"]))) is None
