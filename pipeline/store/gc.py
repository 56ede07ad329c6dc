"""Deletes runs, and then what no other run refers to. First a plan with sizes, then, when somebody agrees, the deed.

Invariants: nothing goes that a remaining run's lock refers to; a promotion protects the run of its model; a run with a
living process is kept; inputs, answers, data sets and models mirrored for no run yet are never touched. A stage's
manifest goes before its parts, so a half-deleted stage is an unfinished one and never a wrong one.
"""

import logging
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from pipeline.errors import UserError
from pipeline.store.objects import INCOMPLETE, Entry, Store
from pipeline.store.progress import read_progress
from pipeline.store.runs import find_run
from pipeline.store.status import STALE_SECONDS

LOG = logging.getLogger(__name__)
DELETERS = 16
ABANDONED_SECONDS = 86400.0
BEAT_SECONDS = 12.0  # a living process writes its progress at least every 10 s


@dataclass(frozen=True)
class Garbage:
    """One folder to delete: its prefix, objects and bytes."""

    prefix: str
    entries: tuple[Entry, ...]

    @property
    def bytes(self) -> int:
        """The size of all its objects."""
        return sum(entry.size for entry in self.entries)


@dataclass(frozen=True)
class _Run:
    """What a lock refers to, read without validating its recipe: a run of an older hanforge can be deleted too."""

    created: float
    folders: frozenset[str]  # of its stages and of its mirrored models


@dataclass
class GcPlan:
    """What would be deleted, and which runs are kept although they were asked for, with the reason."""

    runs: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    folders: list[Garbage] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """What deleting it frees."""
        return sum(folder.bytes for folder in self.folders)


def plan_gc(store: Store, named: Iterable[str] = (), older_than_seconds: float | None = None) -> GcPlan:
    """What `named` runs, and runs created longer ago than that, leave behind when they go.

    With neither, only what no run refers to any more (an earlier deletion was cut short). Raises UserError for a named
    run that does not exist, runs now, or whose model is promoted.
    """
    runs = _runs(store)
    chosen = {name if name in runs else find_run(store, name).run_id for name in named}
    horizon = time.time() - older_than_seconds if older_than_seconds is not None else float("-inf")
    doomed = chosen | {name for name, run in runs.items() if run.created < horizon}
    protected = _protected(store, {name: runs[name] for name in doomed})
    for name in sorted(chosen & set(protected)):
        raise UserError(f"run {name} is not deleted: {protected[name]}", "Stop it, or name another run")
    plan = GcPlan(sorted(doomed - set(protected)), protected)
    remaining = [run for name, run in runs.items() if name not in plan.runs]
    own_models = {prefix for prefix in _referred(runs[name] for name in plan.runs) if prefix.startswith("models/")}
    told = {f"runs/{name}" for name in store.folders("runs") if not name.endswith(".json")}  # folders of events
    kept = {f"runs/{name}" for name in runs if name not in plan.runs}
    plan.folders += _abandoned(store)
    for prefix in sorted(((_stage_folders(store) | own_models) - _referred(remaining)) | (told - kept)):
        folder = Garbage(prefix, tuple(store.list(prefix)))
        if folder.entries:
            plan.folders.append(folder)
    return plan


def carry_out(store: Store, plan: GcPlan) -> int:
    """Delete what the plan names and give the bytes freed. A folder that a new run has come to refer to stays.

    Locks go first: whoever looks later cannot find a run whose results are half gone.
    """
    for run in plan.runs:
        store.delete(f"runs/{run}.json")
    freed = 0
    for folder in plan.folders:
        if folder.prefix in _referred(_runs(store).values()):
            LOG.info("kept %s: a run that began meanwhile refers to it", folder.prefix)
            continue
        _delete(store, folder)
        freed += folder.bytes
    return freed


def _delete(store: Store, folder: Garbage) -> None:
    """The manifest first, then commits, then everything else."""
    keys = [entry.key for entry in folder.entries]
    first = [key for key in keys if key.endswith("/_MANIFEST.json")]
    second = [key for key in keys if "/done/" in key]
    for group in (first, second, sorted(set(keys) - set(first) - set(second))):
        with ThreadPoolExecutor(DELETERS) as pool:
            list(pool.map(store.delete, group))
    if store.is_local:
        for path, _, _ in os.walk(store.path(folder.prefix), topdown=False):
            with suppress(OSError):  # not empty: somebody writes there
                os.rmdir(path)


def _abandoned(store: Store) -> list[Garbage]:
    """Files that killed writers left on a local store's own disk, a day old or more: nothing refers to them, ever."""
    if not store.is_local:
        return []
    horizon = time.time() - ABANDONED_SECONDS
    files = [path for path in Path(store.path(INCOMPLETE)).glob("*") if path.is_file()]
    old = [path for path in files if path.stat().st_mtime < horizon]
    entries = tuple(Entry(f"{INCOMPLETE}/{path.name}", path.stat().st_size) for path in sorted(old))
    return [Garbage(INCOMPLETE, entries)] if entries else []


def _stage_folders(store: Store) -> set[str]:
    return {
        f"stages/{kind}/{fingerprint}"
        for kind in store.folders("stages")
        for fingerprint in store.folders(f"stages/{kind}")
    }


def _runs(store: Store) -> dict[str, _Run]:
    """Every run by id."""
    names = [name for name in store.folders("runs") if name.endswith(".json")]
    with ThreadPoolExecutor(DELETERS) as pool:
        raw = pool.map(lambda name: orjson.loads(store.read(f"runs/{name}")), names)
        return {name.removesuffix(".json"): _run(lock) for name, lock in zip(names, raw, strict=True)}


def _run(lock: dict[str, Any]) -> _Run:
    stages = {f"stages/{stage['kind']}/{stage['fingerprint']}" for stage in lock["stages"].values()}
    models = {f"models/{name.split('@')[0]}/{revision}" for name, revision in lock["hub_models"].items()}
    return _Run(lock["created"], frozenset(stages | models))


def _referred(runs: Iterable[_Run]) -> frozenset[str]:
    """The folders that runs refer to."""
    return frozenset().union(*(run.folders for run in runs))


def _protected(store: Store, runs: dict[str, _Run]) -> dict[str, str]:
    """Those of the runs that must stay, with the reason: their model is promoted, or a process of theirs lives."""
    protected: dict[str, str] = {}
    for recipe in store.folders("promotions"):
        for name in store.folders(f"promotions/{recipe}"):
            promotion = orjson.loads(store.read(f"promotions/{recipe}/{name}"))
            if promotion.get("run") in runs:
                protected[promotion["run"]] = f"promotion {name.removesuffix('.json')} of {recipe} is its model"
    living = _living(store, _referred(runs.values()))
    for name, run in runs.items():
        for prefix in sorted(run.folders & living.keys()):
            protected[name] = f"its stage {living[prefix]!r} runs now"
    return protected


def _living(store: Store, prefixes: frozenset[str]) -> dict[str, str]:
    """The stage folders that a process works on, with the stage's name.

    Their clock may be hours off ours: progress that is not of this minute by our clock is looked at a second time.
    """
    before = {prefix: running for prefix in sorted(prefixes) if (running := _running(store, prefix))}
    living = {
        prefix: str(record["stage"])
        for prefix, records in before.items()
        for record in records
        if abs(time.time() - record["time"]) < STALE_SECONDS
    }
    if before.keys() - living.keys():
        time.sleep(BEAT_SECONDS)
    for prefix in before.keys() - living.keys():
        if moved := [record for record in _running(store, prefix) if record not in before[prefix]]:
            living[prefix] = str(moved[0]["stage"])
    return living


def _running(store: Store, prefix: str) -> list[dict[str, Any]]:
    """The progress records under a stage folder that say `running`; those of killed processes do, too."""
    return [record for record in read_progress(store, prefix) if record.get("state") == "running"]


def seconds_of(age: str) -> float:
    """ "30d", "12h", "90m" or "45s" in seconds; UserError for anything else."""
    units = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
    try:
        return float(age[:-1]) * units[age[-1:]]
    except (KeyError, ValueError):
        raise UserError(f"--older-than {age!r} is no age", "Say a number and a unit: 30d, 12h, 90m or 45s") from None
