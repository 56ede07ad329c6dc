"""A process that has imported the heavy libraries and forks `hanforge` processes from itself on request.

`python -m tests.crash.nursery MODULE...` reads one JSON request a line, {"arguments": [...], "environment": {...},
"log": path, "hours": h}, forks a child that becomes that command, and prints `started PID`, and later `ended PID CODE`
(negative: killed by a signal). The children are real processes with sessions of their own, any number at once; only the
seconds of importing are paid once. `hours` shifts the child's wall clock; its monotonic clock goes on as it is.
"""

import importlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.servers.process import ROOT

TRAINING = ("torch", "transformers", "trl", "peft")
DATA = (
    "s3fs", "jobs.cli", "jobs.stage", "jobs.prepare", "jobs.augment", "jobs.validate", "jobs.evaluate",
    "pipeline.store.probe", "pipeline.store.pins", "pipeline.recipe.load", "pipeline.local.chain", "isal.igzip",
)  # fmt: skip


@dataclass
class Child:
    """A `hanforge` process that the nursery started."""

    pid: int
    log_path: Path
    _code: "queue.SimpleQueue[int]" = field(default_factory=queue.SimpleQueue)
    _ended: int | None = None

    def ended(self, timeout_seconds: float = 300) -> int:
        """Wait for its end: the exit code, negative when a signal ended it. TimeoutError when it lives on."""
        if self._ended is None:
            try:
                self._ended = self._code.get(timeout=timeout_seconds)
            except queue.Empty:
                raise TimeoutError(f"process {self.pid} has not ended: {self.log()[-2000:]}") from None
        return self._ended

    def has_ended(self) -> bool:
        """Whether it is over."""
        return self._ended is not None or not self._code.empty()

    def signal(self, number: int) -> None:
        """Send a signal, unless it is over. It is reaped by the nursery: a process id is not given away before."""
        if not self.has_ended():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return

    def log(self) -> str:
        """What it printed."""
        return self.log_path.read_text("utf-8", "replace")


class Nursery:
    """The parent's side. Leaving its `with` block kills what still runs."""

    def __init__(self, folder: Path, modules: tuple[str, ...] = DATA) -> None:
        self._folder = folder
        self._count = 0
        self._children: dict[int, Child] = {}
        self._started: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.nursery", *modules],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "Nursery":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()

    def start(self, arguments: list[str], environment: dict[str, str], hours: float = 0.0) -> Child:
        """Start `hanforge ARGUMENTS`, its wall clock `hours` ahead (negative: behind)."""
        assert self._process.stdin is not None
        with self._lock:
            self._count += 1
            log = self._folder / f"child{self._count:05d}.log"
            request = {"arguments": arguments, "environment": environment, "log": str(log), "hours": hours}
            self._process.stdin.write(json.dumps(request) + "\n")
            return self._children[self._started.get(timeout=120)]

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word, pid, *code = line.split()
            if word == "started":
                self._children[int(pid)] = Child(int(pid), self._folder / f"child{self._count:05d}.log")
                self._started.put(int(pid))
            else:
                self._children[int(pid)]._code.put(int(code[0]))


def become(request: dict[str, Any]) -> None:
    """In the child: turn into the command of the request and never return."""
    os.setsid()
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(request["environment"])
    sys.argv = ["hanforge", *request["arguments"]]
    if request["hours"]:
        _shift_wall_clock(request["hours"] * 3600)
    from jobs.cli import main

    code = 1
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        os._exit(code)


def _shift_wall_clock(seconds: float) -> None:
    """Set the wall clock that this process sees: time.time, gmtime, localtime and datetime's now."""
    true_time, true_gmtime, true_localtime = time.time, time.gmtime, time.localtime

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Shifted":
            return cls.fromtimestamp(true_time() + seconds, tz)

        @classmethod
        def utcnow(cls) -> "Shifted":
            return cls.now(UTC).replace(tzinfo=None)

    time.time = lambda: true_time() + seconds
    time.time_ns = lambda: int((true_time() + seconds) * 1e9)
    time.gmtime = lambda at=None: true_gmtime(time.time() if at is None else at)
    time.localtime = lambda at=None: true_localtime(time.time() if at is None else at)
    for module in list(sys.modules.values()):  # what was imported by name before
        for name, value in list(vars(module).items()) if module is not sys.modules[__name__] else ():
            if value is datetime:
                setattr(module, name, Shifted)
            elif value is true_time:
                setattr(module, name, time.time)
    assert abs((Shifted.now(UTC) - timedelta(seconds=seconds)).timestamp() - true_time()) < 60


def serve(modules: list[str]) -> None:
    """Import what the stages import, then fork on request and reap until standard input closes."""
    for module in modules:
        importlib.import_module(module)
    living: set[int] = set()
    buffer = b""
    while True:
        readable, _, _ = select.select([0], [], [], 0.01 if living else None)
        if readable:
            data = os.read(0, 1 << 16)
            if not data:
                break
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                child = os.fork()
                if child == 0:
                    become(json.loads(line))
                living.add(child)
                print(f"started {child}", flush=True)
        for child in list(living):
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                living.discard(child)
                print(f"ended {child} {os.waitstatus_to_exitcode(status)}", flush=True)
    for child in living:
        os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    serve(sys.argv[1:])
