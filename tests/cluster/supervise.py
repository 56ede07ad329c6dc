"""Keeps processes running: one that ends is started again after a second, as systemd would on a real node.

Used by the cluster's first process, which also inherits every orphan and must reap it, and by each node's.
"""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

PAUSE_SECONDS = 1.0


class Supervisor:
    """Starts processes with their output in LOGS/NAME.log and starts them again whenever they end."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self._starts: dict[int, tuple[str, Sequence[str | Path], Mapping[str, str]]] = {}
        self._held: dict[int, subprocess.Popen[bytes]] = {}  # the next Popen would reap, unseen, one that nobody holds

    def start(self, name: str, command: Sequence[str | Path], environment: Mapping[str, str] = {}) -> int:
        """Start `command` under `name` and give its process id, the first one."""
        with (self.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [str(word) for word in command], env={**os.environ, **environment},
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self._starts[process.pid] = (name, command, environment)
        self._held[process.pid] = process
        return process.pid

    def forever(self) -> None:
        """Reap what ends, start again what is ours."""
        while True:
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                return
            if ended := self._starts.pop(pid, None):
                self._held.pop(pid).returncode = status
                time.sleep(PAUSE_SECONDS)
                self.start(*ended)
