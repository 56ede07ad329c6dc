"""Locks: the same recipe and inputs are the same run; fingerprints change with what changes a result, and only then."""

from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.recipe.load import load_recipe
from pipeline.store.events import say
from pipeline.store.objects import Store
from pipeline.store.pins import resolve
from pipeline.store.runs import RunLock, create_run, find_run

RECIPE = """\
name: tiny
inputs: {raw: {}}
stages:
  prepare: {kind: prepare, source: {input: raw}}
  other: {kind: prepare, source: {input: raw, files: ["b.jsonl"]}}
  phase1: {kind: train, base: BASE, data: {stage: prepare}}
  merge1: {kind: merge, base: BASE, adapter: {stage: phase1}}
"""


@pytest.fixture
def world(tmp_path: Path) -> tuple[Store, str]:
    """A store with two raw files, and a recipe file whose base is a local folder."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    raw = tmp_path / "store" / "inputs" / "raw"
    raw.mkdir(parents=True)
    (raw / "a.jsonl").write_text('{"messages": []}\n')
    (raw / "b.jsonl").write_text('{"messages": [1]}\n')
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(RECIPE.replace("BASE", str(base)))
    return Store(f"file://{tmp_path / 'store'}"), str(recipe)


def locked(store: Store, recipe: str, *sets: str, keep: RunLock | None = None, profile: str | None = None) -> RunLock:
    return create_run(store, resolve(store, load_recipe(recipe, sets=list(sets)), keep=keep, profile=profile))


def changed(one: RunLock, other: RunLock) -> set[str]:
    return {name for name in one.stages if one.stages[name].fingerprint != other.stages[name].fingerprint}


def test_the_same_recipe_twice_is_the_same_run(world: tuple[Store, str]) -> None:
    first, second = locked(*world), locked(*world)
    assert first == second and first.run_id.startswith("tiny-")
    assert find_run(world[0], "latest") == first


def test_a_changed_setting_changes_its_stage_and_what_follows(world: tuple[Store, str]) -> None:
    assert changed(locked(*world), locked(*world, "phase1.learning_rate=1e-4")) == {"phase1", "merge1"}


def test_an_operational_setting_changes_no_fingerprint(world: tuple[Store, str]) -> None:
    first, second = locked(*world), locked(*world, "phase1.save_steps=7", "prepare.expected_rows=5")
    assert changed(first, second) == set() and first.run_id != second.run_id


def test_rerun_changes_the_fingerprint(world: tuple[Store, str]) -> None:
    assert changed(locked(*world), locked(*world, "merge1.rerun=1")) == {"merge1"}


def test_a_profile_changes_what_it_decides_about_results(world: tuple[Store, str]) -> None:
    assert changed(locked(*world), locked(*world, profile="h100")) == {"phase1", "merge1"}


def test_changed_input_raises_the_salt_and_reaches_only_its_readers(world: tuple[Store, str]) -> None:
    first = locked(*world)
    (Path(world[0].root) / "inputs" / "raw" / "a.jsonl").write_text('{"messages": [2]}\n')
    second = locked(*world)
    assert changed(first, second) == {"prepare", "phase1", "merge1"}  # `other` reads only b.jsonl
    assert (first.run_id[:-1], first.run_id[-1], second.run_id[-1]) == (second.run_id[:-1], "0", "1")


def test_a_narrowed_run_keeps_the_identities_of_an_earlier_one(world: tuple[Store, str]) -> None:
    first = locked(*world)
    (Path(world[0].root) / "inputs" / "raw" / "a.jsonl").write_text("changed\n")
    assert locked(*world, keep=first) == first


def test_a_run_id_that_means_something_else_is_refused(world: tuple[Store, str]) -> None:
    store, recipe = world
    create_run(store, resolve(store, load_recipe(recipe)), "release-1")
    with pytest.raises(UserError, match="'release-1' exists and means something else: recipe, stages differ"):
        create_run(store, resolve(store, load_recipe(recipe, sets=["phase1.seed=9"])), "release-1")


def test_missing_and_empty_inputs_are_named(world: tuple[Store, str]) -> None:
    store, recipe = world
    with pytest.raises(UserError, match="input 'raw': nothing at file://.*/nowhere"):
        resolve(store, load_recipe(recipe), {"raw": "nowhere"})
    with pytest.raises(UserError, match="no input 'rew'; did you mean 'raw'"):
        resolve(store, load_recipe(recipe), {"rew": "x"})
    (Path(store.root) / "inputs" / "raw" / "b.jsonl").unlink()
    with pytest.raises(UserError, match=r"no file matches 'b.jsonl'"):
        resolve(store, load_recipe(recipe))


def test_latest_of_two_recipes_is_ambiguous(world: tuple[Store, str], tmp_path: Path) -> None:
    store, recipe = world
    locked(store, recipe)
    other = tmp_path / "other.yaml"
    other.write_text(Path(recipe).read_text().replace("name: tiny", "name: other"))
    locked(store, str(other))
    with pytest.raises(UserError, match="'latest' is ambiguous"):
        find_run(store, "latest")
    assert find_run(store, "latest@other").recipe.name == "other"


def test_the_latest_run_is_the_one_last_worked_on(world: tuple[Store, str]) -> None:
    store, recipe = world
    first = locked(store, recipe)
    second = locked(store, recipe, "phase1.seed=9")
    assert find_run(store, "latest") == second
    say(store, first.run_id, "", "asked for")
    assert find_run(store, "latest") == first
