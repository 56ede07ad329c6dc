"""The live table of a local run on a terminal; where there is none a line per change, and one a minute of what runs."""

import sys
import time
from types import TracebackType

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from pipeline.local.chain import Options, Process, scope
from pipeline.reporting.figures import duration
from pipeline.reporting.samples import printable
from pipeline.store.objects import Store
from pipeline.store.runs import RunLock
from pipeline.store.status import StageStatus, chain_status

REPEAT_SECONDS = 60.0
COLOURS = {"done": "green", "running": "cyan", "failed": "red", "refused": "yellow", "stopped": "yellow"}


def drawn(title: str, statuses: list[StageStatus], pods: dict[str, str] | None = None) -> Group:
    """The chain as a table, and below it what stages ended with: sentences would make the table's cells high."""
    said = [Text(f"{status.name}: {printable(status.message)}") for status in statuses if status.message]
    return Group(table_of(title, statuses, pods), *said)


def table_of(title: str, statuses: list[StageStatus], pods: dict[str, str] | None = None) -> Table:
    """Stage, state, its `pods` in a cluster, progress or rows by state, time, peak memory."""
    columns = [
        Column("stage", overflow="fold", min_width=10),
        *([] if pods else [Column("kind", no_wrap=True)]),  # 80 columns hold one of both
        Column("state", no_wrap=True),
        *([Column("pods", min_width=12, overflow="fold")] if pods else []),
        Column("progress", min_width=12),
        Column("time", no_wrap=True, justify="right"),
        Column("peak", no_wrap=True, justify="right"),
    ]
    table = Table(*columns, title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for status in statuses:
        seconds = status.seconds or float(status.progress.get("seconds") or 0)
        table.add_row(
            status.name,
            *([] if pods else [status.kind]),
            Text(status.state, COLOURS.get(status.state, "default")),
            *([printable(pods.get(status.name, ""))] if pods else []),
            Text(describe(status)),
            duration(seconds) if seconds else "",
            f"{status.peak_bytes / 2**30:.1f} GiB" if status.peak_bytes else "",
        )
    return table


def describe(status: StageStatus) -> str:
    """One cell: rows by state when done, else progress with ETA and the note of its quality."""
    if status.counts is not None:
        counts = status.counts
        bad = [
            f"{sum(group.values()):,} {name}"
            for name, group in (("rejected", counts.rejected), ("failed", counts.failed))
            if group
        ]
        return ", ".join([f"{counts.ok:,} ok", *bad]) if counts.planned else ""
    progress = status.progress
    if status.state != "running" or not progress:
        return ""
    total, eta = progress.get("total"), progress.get("eta_seconds")
    parts = [
        f"{progress['done']:,}" + (f" of {total:,}" if total else ""),
        *(f"{name} {progress[name]:.4g}" for name in ("loss", "eval_loss") if isinstance(progress.get(name), float)),
        f"{duration(eta)} left" if eta else "",
        printable(str(progress.get("note") or "")),
    ]
    return ", ".join(part for part in parts if part)


class LiveTable:
    """Redraws the table every second on a terminal; elsewhere prints lines."""

    def __init__(self, store: Store, lock: RunLock, options: Options) -> None:
        self._store, self._lock = store, lock
        self._scope = scope(lock, options)
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False) if sys.stderr.isatty() else None
        self._drawn = 0.0
        self._names: set[str] = set()
        self._said: dict[str, tuple[str, float]] = {}  # by stage: the state printed last, and when
        self._began = time.monotonic()

    def __enter__(self) -> "LiveTable":
        print(f"run {self._lock.run_id} in {self._store.url}", file=sys.stderr)
        if self._live:
            self._live.start()
        self.show([])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drawn = 0.0
        self.show([])
        if self._live:
            self._live.stop()
        if error is None:
            print(f"all {len(self._scope)} stages done in {duration(time.monotonic() - self._began)}", file=sys.stderr)

    def show(self, running: list[Process]) -> None:
        """Draw the table, at most once a second."""
        names = {process.stage for process in running}
        changed, self._names = names != self._names, names
        if time.monotonic() - self._drawn < (1.0 if changed else 2.0):
            return
        self._drawn = time.monotonic()
        statuses = [status for status in chain_status(self._store, self._lock) if status.name in self._scope]
        if self._live:
            self._live.update(drawn(self._lock.run_id, statuses), refresh=True)
            return
        for status in statuses:
            if self._is_due(status):
                seconds = f" in {duration(status.seconds)}" if status.seconds and status.state == "done" else ""
                said = describe(status)
                detail = f": {said}" if said else ""
                print(f"{status.name}: {status.state}{seconds}{detail}", file=sys.stderr, flush=True)

    def _is_due(self, status: StageStatus) -> bool:
        state, when = self._said.get(status.name, ("", 0.0))
        changed = status.state != state and status.state not in ("waiting", "ready")
        due = changed or (status.state == state == "running" and self._drawn - when >= REPEAT_SECONDS)
        if due:
            self._said[status.name] = (status.state, self._drawn)
        return due
