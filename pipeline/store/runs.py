"""Runs: `runs/<run id>.json`, created once and never changed, says what a pass over a recipe means.

A lock holds the resolved recipe, the identity of every external input and model, and per stage its fingerprint and
execution. Every process of the run obeys it. run id = recipe name + hash of the rendered recipe + a salt, which rises
when an input's identity changed.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from pipeline.errors import UserError
from pipeline.recipe import models
from pipeline.recipe.fields import Closed
from pipeline.recipe.kinds import AnySettings
from pipeline.recipe.load import Document, validated
from pipeline.recipe.profiles import Execution
from pipeline.recipe.references import InputReference
from pipeline.store.commit import StageDirectory
from pipeline.store.inputs import Source, source_from
from pipeline.store.objects import Store

LOCK_VERSION = 1


class StageLock(Closed):
    """What a run says about one stage."""

    kind: str
    fingerprint: str
    needs: tuple[str, ...]
    execution: Execution


@dataclass(frozen=True)
class RunLock:
    """One pinned pass over a recipe. `identities` maps every external reference to its digest."""

    run_id: str
    recipe: models.Recipe
    inputs: dict[str, Source]
    hub_models: dict[str, str]
    stages: dict[str, StageLock]
    created: float = field(default=0.0)

    def settings(self, stage: str) -> AnySettings:
        """The stage's settings; UserError when the run has no such stage."""
        if stage not in self.recipe.stages:
            whose = f"run {self.run_id}" if self.run_id else f"recipe {self.recipe.name}"
            raise UserError(f"{whose} has no stage {stage!r}; {models.nearest(stage, list(self.recipe.stages))}")
        return self.recipe.stages[stage]

    def directory(self, store: Store, stage: str) -> StageDirectory:
        """The stage's folder in the store."""
        self.settings(stage)
        return StageDirectory(store, self.stages[stage].kind, self.stages[stage].fingerprint)

    def source(self, reference: InputReference | str) -> Source:
        """What an input, path or URL held when the run was locked."""
        source = self.inputs[reference_key(reference)]
        return source.picked(reference.files) if isinstance(reference, InputReference) else source

    def plain(self) -> dict[str, Any]:
        """As JSON values, the document in the store."""
        return {
            "version": LOCK_VERSION,
            "run": self.run_id,
            "recipe": models.rendered(self.recipe),
            "inputs": {name: source.plain() for name, source in self.inputs.items()},
            "hub_models": self.hub_models,
            "stages": {name: stage.model_dump() for name, stage in self.stages.items()},
            "created": self.created,
        }


def reference_key(reference: InputReference | str) -> str:
    """How a lock names an external reference."""
    return f"input:{reference.input}" if isinstance(reference, InputReference) else reference


def create_run(store: Store, candidate: RunLock, run_id: str | None = None) -> RunLock:
    """The run that means exactly `candidate`: an existing one, or a new one under the next salt.

    With a `run_id` (Helm names it) the lock under that id must mean the same, else UserError.
    """
    if run_id is not None:
        standing = _create(store, candidate, run_id)
        if different := _differences(standing, candidate):
            raise UserError(
                f"run {run_id!r} exists and means something else: {', '.join(different)} differ",
                "Use another run id (raise the salt), or the recipe and inputs that the run was made from",
            )
        return standing
    locks = (_create(store, candidate, name) for name in _own_ids(candidate))
    return next(lock for lock in locks if not _differences(lock, candidate))


def known_run(store: Store, candidate: RunLock) -> RunLock | None:
    """The run that `create_run` would find for `candidate`; None when it would make a new one."""
    locks = (_read(store, name) for name in _own_ids(candidate))
    return next(lock for lock in locks if lock is None or not _differences(lock, candidate))


def salt_of(store: Store, candidate: RunLock) -> int:
    """The salt of the run that `create_run` would find or make for `candidate`."""
    locks = (_read(store, name) for name in _own_ids(candidate))
    return next(salt for salt, lock in enumerate(locks) if lock is None or not _differences(lock, candidate))


def _own_ids(candidate: RunLock) -> Iterator[str]:
    """The ids that a run of this recipe may have, by salt: first come, first served."""
    base = f"{candidate.recipe.name}-{models.digest(candidate.recipe)}"
    return (f"{base}-{salt}" for salt in itertools.count())


def _create(store: Store, candidate: RunLock, run_id: str) -> RunLock:
    standing = _read(store, run_id)
    if standing is not None:
        return standing
    document = replace(candidate, run_id=run_id).plain()
    store.create(f"runs/{run_id}.json", orjson.dumps(document))  # unsorted: stages keep the recipe's order
    return read_run(store, run_id)


def _differences(one: RunLock, other: RunLock) -> list[str]:
    """In what two locks mean something else; nothing when they are the same pass."""
    left, right = _meaning(one), _meaning(other)
    return [what for what in left if left[what] != right[what]]


def _meaning(lock: RunLock) -> dict[str, Any]:
    # The place counts too: data that moved keeps every fingerprint, but its run's processes read where it lies now.
    digests = {name: (source.digest, source.url) for name, source in lock.inputs.items()}
    return {"recipe": models.rendered(lock.recipe), "inputs": digests, "hub": lock.hub_models, "stages": lock.stages}


def read_run(store: Store, run_id: str) -> RunLock:
    """The lock under an id; UserError when there is none or another version of hanforge wrote it."""
    lock = _read(store, run_id)
    if lock is None:
        known = run_ids(store)
        raise UserError(
            f"no run {run_id!r} in {store.url}; {models.nearest(run_id, known) if known else 'it has no runs'}"
        )
    return lock


def _read(store: Store, run_id: str) -> RunLock | None:
    try:
        raw = orjson.loads(store.read(f"runs/{run_id}.json"))
    except FileNotFoundError:
        return None
    if raw["version"] != LOCK_VERSION:
        raise UserError(
            f"run {run_id!r} was locked by contract version {raw['version']}, this is {LOCK_VERSION}", "Start a new run"
        )
    stages = {name: StageLock(**stage) for name, stage in raw["stages"].items()}
    recipe = validated(Document(raw["recipe"], {(): f"runs/{run_id}.json"}))
    inputs = {name: source_from(record) for name, record in raw["inputs"].items()}
    return RunLock(raw["run"], recipe, inputs, raw["hub_models"], stages, raw["created"])


def run_ids(store: Store) -> list[str]:
    """Every run's id, the one that was last worked on or created last: an old recipe run again is the latest again."""
    names = [name.removesuffix(".json") for name in store.folders("runs") if name.endswith(".json")]
    return sorted(names, key=lambda name: (_last_used(store, name), name))


def _last_used(store: Store, run_id: str) -> float:
    """When the run's newest event happened, by its name; when it was created while it has none."""
    happened = [entry.key.rsplit("/", 1)[-1] for entry in store.list(f"runs/{run_id}/events")]
    if happened:
        return float(max(happened).split("-")[0])
    return float(orjson.loads(store.read(f"runs/{run_id}.json"))["created"])


def find_run(store: Store, run: str) -> RunLock:
    """A run by id, or `latest[@RECIPE]`; UserError when there is none, or when `latest` could mean several recipes."""
    word, _, recipe = run.partition("@")
    if word != "latest":
        return read_run(store, run)
    locks = [read_run(store, name) for name in run_ids(store)]
    if recipe:
        locks = [lock for lock in locks if lock.recipe.name == recipe]
    if not locks:
        raise UserError(
            f"no run{f' of recipe {recipe!r}' if recipe else ''} in {store.url}",
            "Start one: hanforge run RECIPE. A release makes its run when its driver is up: "
            "hanforge why --release NAME",
        )
    names = sorted({lock.recipe.name for lock in locks})
    if len(names) > 1:
        raise UserError(f"'latest' is ambiguous: the store holds runs of {', '.join(names)}", f"Say latest@{names[0]}")
    return locks[-1]
