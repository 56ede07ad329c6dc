"""`hanforge stage NAME`: one stage's process, everywhere the same; the contract's exit codes are mapped here."""

import importlib
import logging
import os
import re
import resource
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.errors import HanforgeError, Stopped, Trouble
from pipeline.store import events
from pipeline.store.retry import is_full, patience
from pipeline.store.stage import Stage
from pipeline.store.standing import is_done
from pipeline.training.launch import is_gang, launch, leads
from pipeline.version import code_version

LOG = logging.getLogger("hanforge")
TERMINATION_LOG = "/dev/termination-log"
LOG_UPLOAD_SECONDS = 10.0
LAST_WORDS_SECONDS = 10.0


def run_stage(stage: Stage) -> int:
    """Do the stage unless it is done, and give the exit code; last words go to the log, the store and the pod.

    A training that several processes share runs them instead; of these the first alone speaks in the store.
    """
    if is_gang(stage):
        return _launched(stage)
    began = time.monotonic()
    with _KeptLog(stage):
        if leads():
            events.say(stage.store, stage.run_id, stage.name, "started", stage.worker, pid=os.getpid())
        try:
            _work(stage, importlib.import_module(f"jobs.{stage.settings.kind}"))
            code, message = 0, "done"
        except HanforgeError as error:
            code, message = error.exit_code, stage.in_words(str(error))
        except MemoryError as error:
            code, message = 2, f"out of memory: {error}. Give the stage more memory or smaller batches"
        except Exception as error:  # noqa: BLE001 - said in full there
            code, message = _unforeseen(stage, error)
        with patience(LAST_WORDS_SECONDS):  # a store that is away does not hold up an end that is certain
            _last_words(stage, code, message, time.monotonic() - began)
    return code


def _launched(stage: Stage) -> int:
    try:
        code, words = launch(stage)
    except HanforgeError as error:
        code, words = error.exit_code, str(error)
    say_to_pod(f"{stage.name}: {words.removeprefix(f'{stage.name}: ')}", aloud=code != 0)
    return code


def _work(stage: Stage, module: ModuleType) -> None:
    """Preflight, run, gate. A stage that is done is only judged again."""
    if is_done(stage.store, stage.lock, stage.name):
        LOG.info("stage %s was done before", stage.name)
        return
    if hasattr(module, "preflight"):
        module.preflight(stage)
    module.run(stage)
    is_done(stage.store, stage.lock, stage.name)  # judges the gate


def _unforeseen(stage: Stage, error: Exception) -> tuple[int, str]:
    """Exit code and message of an error that nobody explained; a full disk is the user's to mend."""
    if is_full(error):
        place = getattr(error, "filename", None) or stage.scratch()
        return 2, f"no space left on the disk of {place}. Free space, or point HANFORGE_SCRATCH to a larger disk"
    LOG.exception("stage %s failed", stage.name)
    return Trouble.exit_code, f"{type(error).__name__}: {stage.in_words(str(error))}"


def _last_words(stage: Stage, code: int, message: str, seconds: float) -> None:
    usage: dict[str, Any] = {
        "record": "usage",
        "seconds": round(seconds, 3),
        "peak_bytes": peak_bytes(),
        "gpu_peak_bytes": gpu_peak_bytes(),
    }
    say_to_pod(f"{stage.name}: {message}", aloud=code != 0)
    if not leads():
        return
    stage.metrics.write({**usage, **code_version(), "exit_code": code})
    stage.metrics.flush()
    state = {0: "done", 3: "refused", Stopped.exit_code: "stopped"}.get(code, "failed")
    stage.progress.finish(state, message)
    try:
        events.say(stage.store, stage.run_id, stage.name, "ended", stage.worker, code, message, **usage)
    except HanforgeError as error:
        LOG.warning("the store does not learn how this ended: %s", error)


def say_to_pod(line: str, aloud: bool = True) -> None:
    """The last line, for people and for whoever asks Kubernetes why the container ended."""
    if aloud:
        print(line, file=sys.stderr, flush=True)
    target = Path(os.environ.get("HANFORGE_TERMINATION_LOG", TERMINATION_LOG))
    if os.access(target, os.W_OK):
        target.write_bytes(" ".join(line.split()).encode()[:4000])  # Kubernetes keeps 4096 bytes


def peak_bytes() -> int:
    """The peak resident memory of this process and of its largest child, in bytes.

    Linux counts in ru_maxrss also what the parent held when it started this process (getrusage(2)); VmHWM does not.
    """
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with suppress(OSError):  # not Linux
        own = int(re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[0])
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) * 1024


def gpu_peak_bytes() -> int:
    """The peak memory that torch held on its GPUs, 0 where torch was not used or there is none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return 0
    return int(max(torch.cuda.max_memory_reserved(device) for device in range(torch.cuda.device_count())))


class _KeptLog:
    """Keeps the process's log in a local file and copies it to `logs/<worker>.log` every few seconds and at the end."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._path = stage.scratch() / "stage.log"
        self._handler = logging.FileHandler(self._path)
        self._handler.handleError = lambda record: None  # type: ignore[method-assign]  # no traceback for a full disk
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._copy_often, name="log", daemon=True)

    def __enter__(self) -> None:
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        logging.getLogger().addHandler(self._handler)
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join(LAST_WORDS_SECONDS)
        logging.getLogger().removeHandler(self._handler)
        with suppress(OSError):  # a full disk loses the log's end, not the last words
            self._handler.close()
        with patience(LAST_WORDS_SECONDS):
            self._copy()

    def _copy_often(self) -> None:
        while not self._ended.wait(LOG_UPLOAD_SECONDS):
            self._copy()
            if leads():
                self._stage.progress.write()  # a step that takes minutes is no sign of death

    def _copy(self) -> None:
        try:
            self._stage.store.put(
                self._stage.directory.key("logs", f"{self._stage.worker}.log"), self._path.read_bytes()
            )
        except HanforgeError as error:
            LOG.warning("the log is not copied to the store: %s", error)
