"""Our augment stage over a file:// store, in a process of its own: python -m benchmarks.augment_ours SETTINGS

SETTINGS is JSON: rows (a JSONL file), out (a folder), urls, and what to change in the stage's settings. Prints one line
of JSON: samples, seconds, CPU seconds, and the resident memory in MB at 1,000 to 100,000 samples.
"""

import json
import os
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pipeline.engine.protocol import Endpoint
from pipeline.errors import UserError
from pipeline.recipe.models import Recipe
from pipeline.store import pins, runs
from pipeline.store.objects import Store
from pipeline.store.stage import Stage
from pipeline.teacher import augment

MARKS = (1_000, 10_000, 30_000, 100_000)


class Watch(threading.Thread):
    """Notes the resident memory when so many samples are done."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(daemon=True)
        self.stage = stage
        self.mb: dict[int, float] = {}
        self.ended = threading.Event()

    def run(self) -> None:
        """Until `ended` is set."""
        while not self.ended.wait(0.1):
            self.look()

    def look(self) -> None:
        """Note the memory for each mark that was passed since the last look."""
        done = self.stage.progress.state["done"]
        for mark in MARKS:
            if done >= mark and mark not in self.mb:
                self.mb[mark] = resident_mb()


def resident_mb() -> float:
    """This process's resident memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu_seconds() -> float:
    """User and system time of this process, all threads."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime


def main() -> None:
    """Run the stage and print what it took."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    if os.environ.get("BENCHMARK_CORE"):
        os.sched_setaffinity(0, {int(os.environ["BENCHMARK_CORE"])})
    if given.get("ignore_eos"):  # no setting of a stage: for equal lengths only
        Endpoint.options = property(lambda self: {"ignore_eos": True})  # type: ignore[assignment,method-assign]
    teacher = {"served_model_name": "teacher", "endpoint": given["urls"]}
    settings = {"source": {"input": "raw"}, "teacher": teacher, "sample_ratio": 1.0, "singleturn_ratio": None}
    stages = {"augment": {"kind": "augment", **settings, **given["settings"]}}
    recipe = Recipe(name="bench", inputs={"raw": {"url": given["rows"]}}, stages=stages)
    store = Store(given["out"])
    stage = Stage(store, runs.create_run(store, pins.resolve(store, recipe)), "augment")
    watch = Watch(stage)
    watch.start()
    started, cpu = time.monotonic(), cpu_seconds()
    try:
        augment.run(stage)
    except UserError as error:
        if not given.get("ignore_eos"):  # else every answer is cut off by max_tokens, and no row comes through
            raise
        print(error, file=sys.stderr)
    seconds, cpu = time.monotonic() - started, cpu_seconds() - cpu
    watch.ended.set()
    watch.look()
    done = sum(unit.counts.planned for unit in stage.directory.done().values())
    print(json.dumps({"samples": done, "seconds": seconds, "cpu_seconds": cpu, "mb": watch.mb}), flush=True)


if __name__ == "__main__":
    main()
