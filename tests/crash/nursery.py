"""A process that has imported the heavy libraries and forks one `hanforge` process after another on request.

`python -m tests.crash.nursery` reads one JSON request a line, {"arguments": [...], "environment": {...}, "log": path},
forks a child that becomes that command, and prints `started PID` and later `ended CODE` (negative: killed by a signal).
The children are real processes with sessions of their own; only the seconds of importing torch are paid once.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.servers.process import ROOT


class Nursery:
    """The parent's side: starts children one at a time."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.nursery"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip

    def __enter__(self) -> "Nursery":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def start(self, arguments: list[str], environment: dict[str, str]) -> int:
        """Start `hanforge ARGUMENTS`; gives its process id. `ended` must be called before the next start."""
        assert self._process.stdin is not None
        request = {"arguments": arguments, "environment": environment, "log": str(self._log)}
        self._process.stdin.write(json.dumps(request) + "\n")
        return int(self._answer("started"))

    def ended(self) -> int:
        """Wait for the child: its exit code, negative when a signal ended it."""
        return int(self._answer("ended"))

    def log(self) -> str:
        """What the last child printed."""
        return self._log.read_text("utf-8", "replace")

    def _answer(self, word: str) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().split()
        if line[:1] != [word]:
            raise RuntimeError(f"the nursery said {line} where {word!r} was due; exit code {self._process.poll()}")
        return line[1]


def become(request: dict[str, Any]) -> None:
    """In the child: turn into the command of the request and never return."""
    os.setsid()
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(request["environment"])
    sys.argv = ["hanforge", *request["arguments"]]
    from jobs.cli import main

    code = 1
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        os._exit(code)


def serve() -> None:
    """Import what the stages import, then fork on request until standard input closes."""
    import peft  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401
    import trl  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            become(json.loads(line))
        print(f"started {child}", flush=True)
        _, status = os.waitpid(child, 0)
        print(f"ended {os.waitstatus_to_exitcode(status)}", flush=True)


if __name__ == "__main__":
    serve()
