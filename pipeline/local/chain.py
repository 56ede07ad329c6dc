"""Runs a chain on this machine: one process a stage, in the DAG's order, as many at once as asked for.

A stage's process is the same `hanforge stage` as in a pod. Ctrl-C asks the processes to save and stop; the next run of
the same recipe goes on. A process that was killed is started again, like any passing trouble, a few times.
"""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pipeline.errors import GateRefused, Stopped, Trouble, UserError
from pipeline.recipe import models
from pipeline.store import events
from pipeline.store.objects import Store
from pipeline.store.runs import RunLock
from pipeline.store.standing import is_done
from pipeline.store.status import why_not_done
from pipeline.store.stop import StopFlag

LOG = logging.getLogger(__name__)
GRACE_SECONDS = 120.0
FINAL = {kind.exit_code: kind for kind in (UserError, GateRefused, Stopped)}


@dataclass
class Process:
    """A stage's running process and its captured output."""

    stage: str
    child: "subprocess.Popen[bytes]"
    output: IO[bytes]
    began: float = field(default_factory=time.monotonic)

    def tail(self, lines: int = 15) -> str:
        """The last lines that the process printed."""
        self.output.flush()
        text = Path(self.output.name).read_bytes()[-20_000:].decode("utf-8", "replace")
        return "\n".join(text.replace("\r", "\n").splitlines()[-lines:])


@dataclass(frozen=True)
class Options:
    """How to run: `only` these stages, everything `start` and after, processes at once, tries after trouble."""

    only: tuple[str, ...] = ()
    start: str | None = None
    parallel: int = 1
    retries: int = 2
    verbose: bool = False


def scope(lock: RunLock, options: Options) -> list[str]:
    """The stages to run, in order: all, `only` some, or `start` and whatever depends on it."""
    names = models.order(lock.recipe)
    for name in (*options.only, *([options.start] if options.start else [])):
        lock.settings(name)
    if options.only:
        return [name for name in names if name in options.only]
    if options.start is None:
        return names
    chosen = {options.start}
    for name in names:
        if chosen & set(lock.stages[name].needs):
            chosen.add(name)
    return [name for name in names if name in chosen]


def run_chain(
    store: Store, lock: RunLock, options: Options, stop: StopFlag, show: Callable[[list[Process]], None]
) -> None:
    """Run the stages in scope; raises the first error that ends the chain, after the others have saved.

    `show` is called about twice a second with the running processes.
    """
    waiting = scope(lock, options)
    inside = set(waiting)
    finished: set[str] = set()
    tries: dict[str, int] = {}
    running: list[Process] = []
    check_upstream(store, lock, inside)
    try:
        while waiting or running:
            stop.raise_if_requested()
            for name in [name for name in waiting if set(lock.stages[name].needs) & inside <= finished]:
                if is_done(store, lock, name):
                    waiting.remove(name)
                    finished.add(name)
                elif len(running) < options.parallel:
                    waiting.remove(name)
                    running.append(start(store, lock, name, options.verbose))
            if not running:
                continue
            stop.wait(0.2)
            show(running)
            for process in [process for process in running if process.child.poll() is not None]:
                running.remove(process)
                if _ended(store, lock, process, tries, options):
                    finished.add(process.stage)
                else:
                    waiting.insert(0, process.stage)
    finally:
        for process in running:
            process.child.send_signal(signal.SIGTERM)
        for process in running:
            _wait(process)


def start(store: Store, lock: RunLock, name: str, verbose: bool) -> Process:
    """Start one stage's process; it is asked to stop when this process dies."""
    output = tempfile.NamedTemporaryFile(prefix=f"hanforge-{name}-", suffix=".log")  # noqa: SIM115
    command = [sys.executable, "-m", "jobs", "stage", name, "--store", store.url, "--run", lock.run_id]
    child = subprocess.Popen(
        command,
        stdout=None if verbose else output,
        stderr=None if verbose else subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "HANFORGE_PARENT": str(os.getpid()), "PYTHONUNBUFFERED": "1"},
    )
    return Process(name, child, output)


def _ended(store: Store, lock: RunLock, process: Process, tries: dict[str, int], options: Options) -> bool:
    """True when the stage is done, False when it is to be tried again; raises otherwise."""
    code = process.child.returncode
    if code == 0:
        return True
    message = _message(process)
    if code < 0:
        message = f"its process was killed by {signal.Signals(-code).name}"
        events.say(store, lock.run_id, process.stage, "observed", exit_code=128 - code, message=message)
    if code in FINAL:
        raise FINAL[code](message)
    tries[process.stage] = tries.get(process.stage, 0) + 1
    if tries[process.stage] <= options.retries:
        LOG.warning("%s: %s; trying again", process.stage, message)
        time.sleep(min(2.0 ** tries[process.stage], 30.0))
        return False
    raise Trouble(
        f"{process.stage} ended with exit code {code}: {message}\n{process.tail()}", "See: hanforge logs, hanforge why"
    )


def _message(process: Process) -> str:
    """The process's last words: its last line that begins with its own name."""
    lines = process.tail(60).splitlines()
    own = [number for number, line in enumerate(lines) if line.startswith(f"{process.stage}: ")]
    return "\n".join(lines[own[-1] :]) if own else (lines[-1].removeprefix("error: ") if lines else "it said nothing")


def check_upstream(store: Store, lock: RunLock, inside: set[str]) -> None:
    """UserError when a stage to run needs one that is neither done nor to be run; GateRefused when that one refuses."""
    for name in inside:
        for other in set(lock.stages[name].needs) - inside:
            if not is_done(store, lock, other):
                raise UserError(
                    f"stage {name!r} needs {other!r}, which is not done: {why_not_done(store, lock, other)}",
                    f"Run it first: the same command with --only {other}, or without --only and --from",
                )


def _wait(process: Process) -> None:
    try:
        process.child.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.child.kill()
        process.child.wait()


def die_with_parent() -> None:
    """Ask to be stopped with SIGTERM when the parent named in HANFORGE_PARENT dies (Linux only)."""
    parent = os.environ.get("HANFORGE_PARENT")
    if parent is None or not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != int(parent):  # it died before we asked
        os.kill(os.getpid(), signal.SIGTERM)
