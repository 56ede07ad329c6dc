"""Starts a server module of this folder in its own process and waits for the address it prints.

Every server prints one line, `listening http://127.0.0.1:PORT`, once it accepts connections, and dies with its
parent's pipe: its standard input closes and it stops.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def server_process(module: str, *arguments: str) -> Iterator[str]:
    """Run `python -m MODULE ARGUMENTS` and give its address, such as "http://127.0.0.1:40123"."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "HF_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments, "--with-parent"],
        cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line.startswith("listening "):
            raise RuntimeError(f"{module} printed {line!r} instead of its address; exit code {process.poll()}")
        yield line.split()[1]
    finally:
        process.terminate()
        process.wait(timeout=10)
        process.stdout.close()
        if process.stdin:
            process.stdin.close()


def announce(address: str) -> None:
    """Print the address that `server_process` waits for."""
    print(f"listening {address}", flush=True)


def die_with_parent() -> None:
    """End this process when its standard input closes, so that a killed test run leaves no server behind."""

    def watch() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
