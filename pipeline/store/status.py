"""The state of a run's stages, from the store alone."""

import time
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.errors import GateRefused, Stopped, UserError
from pipeline.store.commit import Counts, Manifest, StageDirectory
from pipeline.store.events import Event, events
from pipeline.store.objects import Store
from pipeline.store.progress import read_metrics, read_progress
from pipeline.store.runs import RunLock
from pipeline.store.standing import Standing, standing

State = Literal["done", "refused", "running", "stopped", "failed", "ready", "waiting"]
ENDINGS: dict[int, State] = {Stopped.exit_code: "stopped", GateRefused.exit_code: "refused"}
STALE_SECONDS = 30.0  # a process that wrote no progress for so long is not called running


@dataclass
class StageStatus:
    """One stage: its state, why, rows by state, progress, seconds of work and peak memory over its processes."""

    name: str
    kind: str
    fingerprint: str
    state: State
    message: str = ""
    counts: Counts | None = None
    progress: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    peak_bytes: int = 0
    gpu_peak_bytes: int = 0
    exit_code: int | None = None
    attempts: int = 0

    def plain(self) -> dict[str, Any]:
        """As JSON values, for `status --json`."""
        return {**self.__dict__, "counts": self.counts.plain() if self.counts else None}


def chain_status(store: Store, lock: RunLock) -> list[StageStatus]:
    """Every stage of the run, in the recipe's order."""
    happened = events(store, lock.run_id)
    found = {name: standing(store, lock, name) for name in lock.recipe.stages}
    return [stage_status(store, lock, name, found, happened) for name in lock.recipe.stages]


def stage_status(
    store: Store, lock: RunLock, name: str, found: dict[str, Standing], happened: list[Event]
) -> StageStatus:
    """One stage's status; `found` and `happened` are those of the whole run."""
    directory = lock.directory(store, name)
    status = StageStatus(name, lock.stages[name].kind, directory.fingerprint, "waiting")
    mine = [event for event in happened if event.stage == name]
    last = next((event for event in reversed(mine) if event.what in ("ended", "observed")), None)
    status.attempts = sum(event.what == "started" for event in mine)
    _add_usage(directory, status)
    own = found[name]
    if own.manifest is not None and (own.done or own.refusals):
        status.state, status.counts = ("done" if own.done else "refused"), own.manifest.counts
        status.message = "; ".join(own.refusals)
        return status
    status.progress = newest_progress(directory)
    began = max((event.time for event in mine if event.what == "started"), default=0.0)
    alive = status.progress.get("state") == "running" and time.time() - status.progress["time"] < STALE_SECONDS
    over = last is not None and last.time >= began
    if last is not None and over and last.exit_code:  # who ended well and is not done has been given new work since
        status.exit_code, status.message = last.exit_code, last.message
        status.state = ENDINGS.get(last.exit_code, "failed")
    elif began and not over and (alive or time.time() - began < STALE_SECONDS):
        status.state = "running"
    elif began and not over:
        status.state, status.message = "failed", "its process vanished without a word (killed?); run again to go on"
    elif all(found[other].done for other in lock.stages[name].needs):
        status.state = "ready"
    return status


def newest_progress(directory: StageDirectory) -> dict[str, Any]:
    """The youngest worker's progress record, empty when there is none."""
    records = read_progress(directory.store, directory.prefix)
    return max(records, key=lambda record: float(record.get("time", 0)), default={})


def _add_usage(directory: StageDirectory, status: StageStatus) -> None:
    for record in read_metrics(directory):
        if record.get("record") == "usage":
            status.seconds += record["seconds"]
            status.peak_bytes = max(status.peak_bytes, record["peak_bytes"])
            status.gpu_peak_bytes = max(status.gpu_peak_bytes, record.get("gpu_peak_bytes", 0))


def why_not_done(store: Store, lock: RunLock, name: str) -> str:
    """One sentence: why the stage would have to run now, or why its gate refuses."""
    directory, found = lock.directory(store, name), standing(store, lock, name)
    if found.manifest is not None:
        return found.open or "; ".join(found.refusals) or "done"
    missing = [other for other in lock.stages[name].needs if not standing(store, lock, other).done]
    if missing:
        return f"needs {', '.join(missing)}"
    begun = len(directory.done_names())
    if begun:
        return f"{begun} units are committed, the rest is open"
    known = store.folders(f"stages/{directory.kind}")
    return (
        "never started"
        if not known
        else f"no result with these settings and inputs (of other ones: {len(known)})"
    )


def require_done(store: Store, lock: RunLock, name: str) -> Manifest:
    """The stage's manifest, whichever run made it; UserError naming the command that makes it when there is none."""
    manifest = lock.directory(store, name).manifest()
    if manifest is None:
        raise UserError(
            f"stage {name!r} of run {lock.run_id} is not done: {why_not_done(store, lock, name)}",
            f"Run it: hanforge run {lock.recipe.name} --only {name}",
        )
    return manifest
