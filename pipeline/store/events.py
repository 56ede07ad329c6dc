"""What happened to a run's processes: `runs/<run id>/events/<time>-<unique>.json`, one object an event, never changed.

The process itself says how it ended; the driver adds what a killed process could not say. `why` and `status` read them.
"""

import socket
import time
import uuid
from dataclasses import dataclass
from typing import Any

import orjson

from pipeline.store.commit import dumped
from pipeline.store.objects import Store


@dataclass(frozen=True)
class Event:
    """One event of one stage (of the run as a whole where it is ""); `time` in seconds since the epoch.

    `what`: "asked for"; "started" and "ended" are the process's own words, "observed" is its end as seen from outside,
    "noted" is whatever else a cluster said about it.
    """

    time: float
    stage: str
    what: str
    worker: str
    exit_code: int | None
    message: str
    facts: dict[str, Any]


def say(
    store: Store,
    run_id: str,
    stage: str,
    what: str,
    worker: str = "",
    exit_code: int | None = None,
    message: str = "",
    at: float | None = None,
    **facts: Any,
) -> None:
    """Record an event, of now or of the time `at`."""
    now = time.time() if at is None else at
    event = Event(now, stage, what, worker, exit_code, message, {"host": socket.gethostname(), **facts})
    store.put(f"runs/{run_id}/events/{now:017.6f}-{uuid.uuid4().hex[:8]}.json", dumped(event))


def events(store: Store, run_id: str) -> list[Event]:
    """Every event of a run, oldest first."""
    found = [store.read_once(entry, _event) for entry in store.list(f"runs/{run_id}/events")]
    return sorted(found, key=lambda event: event.time)


def _event(data: bytes) -> Event:
    return Event(**orjson.loads(data))
