"""Tasks spread over local processes. Results come as tasks end; what they do must not depend on their order.

Worker processes leave SIGINT to their parent and end when the parent dies, also by SIGKILL.
"""

import gc
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from typing import Any, TypeVar

from pipeline.errors import Trouble
from pipeline.store.stop import StopFlag

Context = TypeVar("Context")
Task = TypeVar("Task")
Result = TypeVar("Result")

_PRELOADED = ("pipeline.text.scan", "pipeline.text.write")  # imported once, by the process that workers are forked from
_CONTEXT: list[Any] = []  # in a worker process: what every task needs, sent once


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(
    function: Callable[[Context, Task], Result],
    context: Context,
    tasks: Sequence[Task],
    workers: int,
    stop: StopFlag,
) -> Iterator[Result]:
    """Results of function(context, task), in the order in which tasks end; in this process with one worker.

    All arguments must pickle, none by a name in the main module. Raises Stopped between tasks, Trouble when a worker
    process is killed.
    """
    if workers <= 1 or len(tasks) <= 1:
        for task in tasks:
            stop.raise_if_requested()
            yield function(context, task)
        return
    pool = ProcessPoolExecutor(min(workers, len(tasks)), _server(), initializer=_begin, initargs=(context,))
    try:
        yield from _completed(pool, function, tasks, 2 * workers, stop)
    except BrokenProcessPool as error:
        raise Trouble("a worker process was killed, perhaps for memory", "Set fewer workers") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def warm_up(workers: int) -> None:
    """Let the process that workers are forked from begin its imports now, beside what this one has to do first."""
    if workers > 1:
        _server()
        with _without_main():
            forkserver.ensure_running()


def _server() -> ForkServerContext:
    """Never fork this process: it may hold threads and connections."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(list(_PRELOADED))
    return server


@contextmanager
def _without_main() -> Iterator[None]:
    """Start processes that do not import this one's main module once more: no task lives there, and it is large."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _completed(
    pool: ProcessPoolExecutor,
    function: Callable[[Context, Task], Result],
    tasks: Sequence[Task],
    in_flight: int,
    stop: StopFlag,
) -> Iterator[Result]:
    left = deque(tasks)
    running: set[Future[Result]] = set()
    while left or running:
        with _without_main():
            while left and len(running) < in_flight:
                running.add(pool.submit(_call, function, left.popleft()))
        ended, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
        for future in ended:
            yield future.result()
        stop.raise_if_requested()


def _call(function: Callable[[Any, Task], Result], task: Task) -> Result:
    return function(_CONTEXT[0], task)


def _begin(context: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _CONTEXT[:] = [context]
    gc.freeze()  # what was imported stays: no collection looks through it, and its pages stay shared
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
