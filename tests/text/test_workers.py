"""Tasks in worker processes: all results, errors as they are, and no process left behind."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.errors import Stopped, Trouble, UserError
from pipeline.store.stop import StopFlag
from pipeline.text.workers import in_processes


def square(base: int, task: int) -> int:
    """A task; 13 is a user's mistake, 99 kills its process."""
    if task == 13:
        raise UserError("13 is not wanted", "Leave it out")
    if task == 99:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)
    return base + task * task


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_has_its_result(workers: int) -> None:
    assert sorted(in_processes(square, 1, [1, 2, 3, 4], workers, StopFlag())) == [2, 5, 10, 17]


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_come_as_they_are_and_a_stop_is_heeded(workers: int) -> None:
    with pytest.raises(UserError, match="13 is not wanted. Leave it out"):
        list(in_processes(square, 1, [1, 13], workers, StopFlag()))
    stop = StopFlag()
    stop.request()
    with pytest.raises(Stopped):
        list(in_processes(square, 1, [1, 2, 3], workers, stop))


def test_a_killed_worker_is_passing_trouble() -> None:
    with pytest.raises(Trouble, match="was killed"):
        list(in_processes(square, 1, [1, 99, 3], 2, StopFlag()))


def test_worker_processes_end_with_their_parent(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-m", "tests.text.sleeping", str(tmp_path)])
    while len(workers := list(tmp_path.glob("*.pid"))) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while alive := [path.stem for path in workers if _runs(path.stem)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.05)


def _runs(pid: str) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
