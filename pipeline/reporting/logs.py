"""The logs of a stage's processes, `logs/<worker>.log` in the stage's folder: oldest process first.

A stage's folder is shared by every run that means the same stage, so a log may come from an earlier run.
"""

import re
import time

from pipeline.reporting.rows import lacking
from pipeline.store.events import Event, events
from pipeline.store.objects import Store
from pipeline.store.runs import RunLock

_STAMP = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)")


def stage_logs(store: Store, lock: RunLock, stage: str, lines: int) -> list[tuple[str, str]]:
    """Each process's log as (title with worker, time and end; the last `lines` lines, all of them for 0).

    Raises UserError for an unknown stage, and for one that left no log.
    """
    directory = lock.directory(store, stage)
    mine = [event for event in events(store, lock.run_id) if event.stage == stage]
    found: list[tuple[str, str, str]] = []
    for entry in (entry for entry in store.list(directory.key("logs")) if entry.key.endswith(".log")):
        worker = entry.key.rsplit("/", 1)[-1].removesuffix(".log")
        text = store.read(entry.key).decode("utf-8", "replace")
        began = _began(worker, text, mine)
        title = f"{worker}, {began or 'time unknown'}{_ending(worker, mine)}"
        found.append((began, title, "\n".join(text.splitlines()[-lines:])))
    if not found:
        raise lacking(store, lock, stage, "log")
    return [(title, text) for _, title, text in sorted(found)]


def _began(worker: str, text: str, mine: list[Event]) -> str:
    """When the process began, local time: its event says so, else its log's first stamp, else "" ."""
    for event in mine:
        if event.worker == worker and event.what == "started":
            return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))
    stamp = _STAMP.match(text)
    return stamp[1] if stamp else ""


def _ending(worker: str, mine: list[Event]) -> str:
    if all(event.worker != worker for event in mine):
        return ", of another run"
    ended = [event for event in mine if event.worker == worker and event.what == "ended"]
    return f", ended with exit code {ended[-1].exit_code}" if ended else ", did not say how it ended"
