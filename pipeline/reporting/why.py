"""Why a run is not further: for each stage that is not done one sentence of cause and one of remedy.

Joins what processes said (events with exit codes and messages), what they left (units, progress, peak memory), gates'
refusals and what upstream lacks.
"""

import signal
import time
from collections.abc import Callable, Sequence

from pipeline.errors import GateRefused, Stopped, UserError
from pipeline.recipe import models
from pipeline.store.events import Event, events
from pipeline.store.objects import Store
from pipeline.store.runs import RunLock
from pipeline.store.status import StageStatus, chain_status, why_not_done

QUIET_SECONDS = 10.0  # a running process that wrote no progress for so long is said to be quiet
BROKEN = ("failed", "refused", "stopped")
Outside = Callable[[list[Event], str], tuple[str, str] | None]  # (a stage's events, how to go on) -> (cause, remedy)
KILLED = 128  # exit codes above it: killed by signal (code - 128)


def reasons(store: Store, lock: RunLock, outside: Outside | None = None, seen: Sequence[Event] = ()) -> list[str]:
    """A line for each stage that is not done, in the recipe's order; one line saying so when all are.

    `outside` reads what a cluster said of a stage, `seen` is what it shows now and the events do not hold yet.

    Example: "phase1: killed by SIGKILL (137) at a peak of 30.1 GiB, most often for want of memory. Give the profile
    'h100' more memory, or lower per_device_train_batch_size and max_length; then: hanforge run demo"
    """
    statuses = {status.name: status for status in chain_status(store, lock)}
    found = explained(store, lock, statuses, outside, seen)
    return [f"{name}: {words}" for name, words in found.items()] or [
        f"all {len(lock.stages)} stages of run {lock.run_id} are done"
    ]


def explained(
    store: Store,
    lock: RunLock,
    statuses: dict[str, StageStatus],
    outside: Outside | None = None,
    seen: Sequence[Event] = (),
) -> dict[str, str]:
    """Cause and remedy of each stage that is not done, in the recipe's order."""
    happened = sorted([*events(store, lock.run_id), *seen], key=lambda event: event.time)
    out: dict[str, str] = {}
    for name in models.order(lock.recipe):
        if statuses[name].state != "done":
            mine = [event for event in happened if event.stage == name]
            again = again_command(lock, happened, name)
            told = outside(mine, again) if outside is not None and statuses[name].state != "refused" else None
            cause, remedy = told or _reason(store, lock, statuses[name], statuses, mine, again)
            out[name] = f"{_sentence(cause)} {remedy}"
    return out


def again_command(lock: RunLock, happened: list[Event], stage: str = "") -> str:
    """What makes the run, or a stage of it, go on: where it was asked for last, here or by a release in a cluster."""
    asked = [event.facts for event in happened if event.what == "asked for"]
    if not asked or "again" not in asked[-1]:
        return _locally(lock)
    if stage and stage not in asked[-1].get("scope", [stage]):  # of a release of other stages
        where = f"--recipe {lock.recipe.name} --namespace {asked[-1].get('namespace')}"
        return f"hanforge deploy stage {stage} {where}"
    return str(asked[-1]["again"])


def _locally(lock: RunLock) -> str:
    return f"hanforge run {lock.recipe.name}"


def _reason(
    store: Store, lock: RunLock, status: StageStatus, statuses: dict[str, StageStatus], mine: list[Event], again: str
) -> tuple[str, str]:
    """(cause, remedy) of one stage that is not done."""
    if status.state == "refused":
        return _refused(lock, status)
    if status.state == "running":
        return _running(status)
    if status.state == "stopped":
        saved = len(lock.directory(store, status.name).done_names())
        kept = f" ({saved} units are committed)" if saved else ""
        return f"it was asked to stop and saved its progress{kept}", f"It goes on from there: {again}"
    if status.state == "failed":
        return _failed(lock, status, mine, again)
    behind = [statuses[name] for name in lock.stages[status.name].needs if statuses[name].state != "done"]
    if behind:
        names = ", ".join(f"{other.name} ({other.state})" for other in behind)
        roots = _open_roots(lock, statuses, status.name)
        broken = [name for name in roots if statuses[name].state in BROKEN]
        if broken:
            return f"it waits for {names}", f"Mend {broken[0]} first"
        works = any(statuses[name].state == "running" for name in roots)
        return (
            f"it waits for {names}",
            "It follows by itself" if works else f"It follows by itself; if nothing runs: {again}",
        )
    open_work = why_not_done(store, lock, status.name)
    return (
        f"all it needs is done, it was not started in this run ({open_work})",
        f"Start it: {again}{f' --only {status.name}' if again == _locally(lock) else ''}",
    )


def _open_roots(lock: RunLock, statuses: dict[str, StageStatus], name: str) -> list[str]:
    """The stages above `name` that are not done although all that they need is."""
    behind = [other for other in lock.stages[name].needs if statuses[other].state != "done"]
    roots = [root for other in behind for root in _open_roots(lock, statuses, other) or [other]]
    return list(dict.fromkeys(roots))


def _refused(lock: RunLock, status: StageStatus) -> tuple[str, str]:
    cause = status.message.split(". ")[0] if status.counts is None else f"the gate refuses: {status.message}"
    look = f"hanforge show-sample {lock.run_id}:{status.name}"
    if status.kind == "validate":
        return cause, f"Look at what was rejected ({look} --output rejects), mend its cause, or change the limits"
    if status.kind == "augment":
        look = f"hanforge peek {status.name} --run {lock.run_id} --once"
        return cause, f"Look at the answers ({look}), mend the prompt or the teacher, or change stop_if"
    return cause, f"Look at the scores and wrong answers (hanforge report {lock.run_id}), or change the limits"


def _running(status: StageStatus) -> tuple[str, str]:
    progress = status.progress
    done, total = progress.get("done"), progress.get("total")
    how_far = f" at {done:,}{f' of {total:,}' if total else ''}" if done is not None else ", no progress written yet"
    quiet = time.time() - progress["time"] if "time" in progress else 0.0
    if quiet > QUIET_SECONDS:
        return (
            f"it runs{how_far}, and has been quiet for {quiet:.0f} s",
            f"Wait, or look at what it does: hanforge logs {status.name}",
        )
    return f"it runs{how_far}", "Wait; hanforge status --watch follows it"


def _failed(lock: RunLock, status: StageStatus, mine: list[Event], again: str) -> tuple[str, str]:
    code = status.exit_code
    look = f"hanforge logs {status.name} --run {lock.run_id}"
    tries = f" in try {status.attempts}" if status.attempts > 1 else ""
    if code is None:
        return _vanished(status, mine), f"If the machine ran out of memory, give it more; what is saved stays: {again}"
    if _out_of_memory(code, mine):
        peak = max(status.peak_bytes, int(status.progress.get("peak_bytes") or 0))
        at = f" at a peak of {peak / 2**30:.1f} GiB" if peak else ""
        return (
            f"its process was killed by SIGKILL (exit code 137){tries}{at}, most often for want of memory",
            f"{_less_memory(lock, status)}; what is saved stays: {again}",
        )
    if code > KILLED and code != Stopped.exit_code:
        return f"{_signal(code)} killed its process (exit code {code}){tries}", f"Its last words: {look}; then: {again}"
    message = status.message.rstrip(".") or "it said nothing"
    if code == UserError.exit_code:
        return message, f"Then: {again}"
    if code == GateRefused.exit_code:
        return message, f"Mend it, or change the stage's limits; then: {again}"
    return f"{message} (exit code {code}{tries}, passing trouble)", f"Its log: {look}; try again: {again}"


def _vanished(status: StageStatus, mine: list[Event]) -> str:
    started = max((event.time for event in mine if event.what == "started"), default=None)
    when = time.strftime(" at %H:%M:%S", time.localtime(started)) if started else ""
    silent = status.progress.get("time")
    last = f", was last heard of {time.time() - silent:,.0f} s ago" if silent else ""
    return f"its process started{when}{last} and vanished without a word (killed, or the machine went away)"


def _out_of_memory(code: int, mine: list[Event]) -> bool:
    observed = [event for event in mine if event.what in ("ended", "observed")]
    reason = str(observed[-1].facts.get("reason", "")) if observed else ""
    return code == KILLED + signal.SIGKILL or reason == "OOMKilled"


def _less_memory(lock: RunLock, status: StageStatus) -> str:
    settings = lock.settings(status.name)
    more = f"Give profile {settings.profile!r} more memory"
    if status.kind == "train":
        batch = getattr(settings, "per_device_train_batch_size", "?")
        return f"{more}, or lower per_device_train_batch_size (now {batch}) and max_length"
    if status.kind in ("augment", "evaluate", "serve"):
        return f"{more}, or lower engine.kv_cache_gib, engine.max_model_len or client.concurrency"
    return f"{more}, or lower the stage's workers"


def _signal(code: int) -> str:
    try:
        return signal.Signals(code - KILLED).name
    except ValueError:
        return f"signal {code - KILLED}"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
