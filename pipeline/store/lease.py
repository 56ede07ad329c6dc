"""One writer at a time for work that cannot be divided (training): `lease/<epoch>.json`, create-only, and a heartbeat.

Who finds the heartbeat standing still by its own monotonic clock takes epoch + 1. The holder calls `check` before every
commit and ends as `Trouble` when it was superseded: a process that was asleep cannot write over its successor's work.
"""

import logging
import os
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from pipeline.errors import Trouble
from pipeline.store.commit import StageDirectory, dumped
from pipeline.store.stop import StopFlag

LOG = logging.getLogger(__name__)


def lease_seconds() -> float:
    """After how many seconds without a heartbeat a writer counts as lost: HANFORGE_LEASE_SECONDS, 60 by default."""
    return float(os.environ.get("HANFORGE_LEASE_SECONDS", "60"))


class Lease:
    """Held from `__enter__` to `__exit__`. `adopted` is True when the stage was finished by another while waiting."""

    def __init__(self, directory: StageDirectory, stop: StopFlag) -> None:
        self._directory = directory
        self._stop = stop
        self._holder = uuid.uuid4().hex
        self._ended = threading.Event()
        self.epoch = 0
        self.adopted = False

    def __enter__(self) -> "Lease":
        if not self._directory.store.exclusive:
            LOG.warning("this store ignores create-only writes: the lease keeps nobody out, start one process only")
        while not self.adopted:
            standing = self._standing()
            if standing is not None and not self._is_over(standing):
                LOG.info("%s: another process writes (epoch %d); waiting for it", self._directory.prefix, standing)
                self._wait_for(standing)
            if not self.adopted and self._take((standing or 0) + 1):
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if not self.adopted:
            self._directory.store.put(self._key(self.epoch, "released"), b"{}")

    def check(self) -> None:
        """Raise `Trouble` when another writer has taken over."""
        standing = self._standing()
        if standing != self.epoch:
            raise Trouble(f"{self._directory.prefix}: writer {standing} took over from writer {self.epoch}")

    def _take(self, epoch: int) -> bool:
        record = {"holder": self._holder, "process": process_identity()}
        if not self._directory.store.create(self._key(epoch), dumped(record)):
            return False
        self.epoch = epoch
        threading.Thread(target=self._beat, name="lease", daemon=True).start()
        return True

    def _beat(self) -> None:
        count = 0
        while not self._ended.wait(lease_seconds() / 6):
            count += 1
            try:
                self._directory.store.put(self._key(self.epoch, "heartbeat"), str(count).encode())
            except Trouble as error:
                LOG.warning("the lease's heartbeat is not written: %s", error)

    def _wait_for(self, epoch: int) -> None:
        """Return when the holder of `epoch` is gone, released, still for too long, or has finished the stage."""
        seen, since = self._heartbeat(epoch), time.monotonic()
        while self._standing() == epoch and not self._is_over(epoch) and time.monotonic() - since < lease_seconds():
            self._stop.raise_if_requested()
            if self._directory.manifest() is not None:
                self.adopted = True
                return
            self._stop.wait(min(1.0, lease_seconds() / 10))
            beat = self._heartbeat(epoch)
            if beat != seen:
                seen, since = beat, time.monotonic()

    def _is_over(self, epoch: int) -> bool:
        """Released, or held by a process of this machine that no longer lives."""
        store = self._directory.store
        if store.exists(self._key(epoch, "released")):
            return True
        return not may_live(orjson.loads(store.read(self._key(epoch)))["process"])

    def _heartbeat(self, epoch: int) -> bytes:
        try:
            return self._directory.store.read(self._key(epoch, "heartbeat"))
        except FileNotFoundError:
            return b""

    def _standing(self) -> int | None:
        names = [entry.key.rsplit("/", 1)[-1] for entry in self._directory.store.list(self._directory.key("lease"))]
        epochs = [int(name.removesuffix(".json")) for name in names if name.endswith(".json")]
        return max(epochs) if epochs else None

    def _key(self, epoch: int, what: str = "json") -> str:
        return self._directory.key("lease", f"{epoch:06d}.{what}")


def process_identity() -> dict[str, Any]:
    """This process in words that another process of the same machine and PID namespace can look up."""
    return {"machine": _machine(), "pid": os.getpid(), "started": _start_ticks(os.getpid())}


def may_live(process: dict[str, Any]) -> bool:
    """False only when the process ran here, in this boot and namespace, and is gone."""
    if not process["machine"] or process["machine"] != _machine():
        return True
    return _start_ticks(int(process["pid"])) == str(process["started"])


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""  # not Linux: only the heartbeat tells


def _start_ticks(pid: int) -> str:
    """When the process started, in clock ticks since boot; empty when there is none or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]
