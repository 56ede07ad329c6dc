"""What a stage tells while it runs: `progress/<worker>.json`, overwritten at most every two seconds, a line on stderr
(for people on a terminal, else one JSON object an interval and nothing else in the line),
and metrics in immutable JSONL segments `metrics/<worker>-<n>.jsonl`. None of it is part of a result.
"""

import logging
import shutil
import sys
import time
from typing import Any

import orjson

from pipeline.errors import HanforgeError
from pipeline.store.commit import StageDirectory, dumped
from pipeline.store.objects import Store

LOG = logging.getLogger(__name__)


class Progress:
    """Rows (or steps) done and total, counts by state, rate and ETA."""

    def __init__(self, directory: StageDirectory, worker: str, stage: str, interval_seconds: float = 2.0) -> None:
        self._directory = directory
        self._worker = worker
        self._stage = stage
        self._interval = interval_seconds
        self._started = time.monotonic()
        self._first_done: int | None = None
        self._written = 0.0
        self._spoken = 0.0
        self.state: dict[str, Any] = {"stage": stage, "worker": worker, "state": "running", "done": 0, "total": None}

    def update(
        self, done: int | None = None, total: int | None = None, counts: dict[str, int] | None = None, **numbers: Any
    ) -> None:
        """Say where the stage is. Cheap: writes and prints at most once an interval.

        `note`, among the numbers, is a line for people that stands behind the bar.
        """
        if done is not None:
            if self._first_done is None:
                self._first_done = done  # what an earlier process had done does not count towards the rate
            self.state["done"] = done
        if total is not None:
            self.state["total"] = total
        if counts is not None:
            self.state["counts"] = counts
        self.state.update(numbers)
        now = time.monotonic()
        if now - self._written >= self._interval:
            self._written = now
            self.write()
        if now - self._spoken >= (1.0 if sys.stderr.isatty() else 15.0):
            self._spoken = now
            self._speak()

    def finish(self, state: str, message: str = "") -> None:
        """Write the last state: done, failed, refused or stopped."""
        self.state.update(state=state, message=message)
        self.write()

    def write(self) -> None:
        """Write the progress object now; trouble with the store is logged and does not end the stage."""
        elapsed = time.monotonic() - self._started
        done, total = self.state["done"], self.state["total"]
        rate = (done - (self._first_done or 0)) / elapsed if elapsed > 0 else 0.0
        self.state.update(
            time=time.time(),
            seconds=round(elapsed, 1),
            rate=round(rate, 3),
            eta_seconds=round((total - done) / rate) if total and rate > 0 else None,
        )
        try:
            self._directory.store.put(self._directory.key("progress", f"{self._worker}.json"), dumped(self.state))
        except HanforgeError as error:
            LOG.warning("progress is not written: %s", error)

    def _speak(self) -> None:
        if sys.stderr.isatty():
            done, total = self.state["done"], self.state["total"]
            share = f" {100 * done / total:5.1f} %" if total else ""
            note = f"  {self.state['note']}" if self.state.get("note") else ""
            line = f"{self._stage}: {done:,}{f' of {total:,}' if total else ''}{share}{note}"
            room = shutil.get_terminal_size().columns - 1  # a line that wraps cannot be drawn over
            print(f"\r{line[:room]}\x1b[K", end="", file=sys.stderr)
        else:
            sys.stderr.write(
                orjson.dumps(self.state).decode() + "\n"
            )  # one write: a line of a thread's log stays apart
            sys.stderr.flush()


class MetricsWriter:
    """Collects one process's metrics and writes them as immutable segments every few seconds."""

    def __init__(self, directory: StageDirectory, worker: str, interval_seconds: float = 5.0) -> None:
        self._directory = directory
        self._worker = worker
        self._interval = interval_seconds
        self._lines: list[bytes] = []
        self._segment = 0
        self._written = time.monotonic()

    def write(self, values: dict[str, Any]) -> None:
        """Add one record, e.g. {"step": 10, "loss": 1.2}; the time in seconds since the epoch is added."""
        self._lines.append(orjson.dumps({"time": time.time(), **values}, option=orjson.OPT_SERIALIZE_NUMPY))
        if time.monotonic() - self._written >= self._interval:
            self.flush()

    def flush(self) -> None:
        """Write what is collected as the next segment."""
        self._written = time.monotonic()
        if not self._lines:
            return
        key = self._directory.key("metrics", f"{self._worker}-{self._segment:05d}.jsonl")
        data = b"\n".join(self._lines) + b"\n"
        try:
            self._directory.store.put(key, data)
        except HanforgeError as error:
            LOG.warning("metrics are not written yet: %s", error)
            return
        self._segment += 1
        self._lines.clear()


def read_progress(store: Store, prefix: str) -> list[dict[str, Any]]:
    """What every worker of a stage's folder told last."""
    return [orjson.loads(store.read(entry.key)) for entry in store.list(f"{prefix}/progress")]


def read_metrics(directory: StageDirectory) -> list[dict[str, Any]]:
    """Every metrics record of a stage, from all its processes, oldest first."""
    lines: list[dict[str, Any]] = []
    for entry in directory.store.list(directory.key("metrics")):
        lines.extend(directory.store.read_once(entry, _records))
    return sorted(lines, key=lambda record: float(record["time"]))


def _records(segment: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in segment.splitlines() if line]
