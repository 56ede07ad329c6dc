"""Who works on which units: a worker its own share first, then what another leaves lying.

Units belong to no index. Another's unit is taken only when that worker's progress objects have not changed for a while
by this process's own monotonic clock, since every request taken twice is paid twice.
"""

import hashlib
import time

from pipeline.store.division import LOOK_SECONDS, owner
from pipeline.store.stage import Stage


class Takeover:
    """Hands out the units to work on, round by round."""

    def __init__(self, stage: Stage, units: list[str], stale_seconds: float) -> None:
        self._stage = stage
        self._units = units
        self._stale_seconds = stale_seconds
        self._seen: dict[int, tuple[str, float]] = {}  # index -> (what its progress looked like, since when)
        self._own_offered = False

    def next_units(self) -> set[str] | None:
        """The names of undone units to do now; None when all are done. Waits while others are busy.

        Raises Stopped when asked to stop.
        """
        while True:
            self._stage.stop.raise_if_requested()
            undone = set(self._units) - self._stage.directory.done_names()
            if not undone:
                return None
            own = {unit for unit in undone if self._owner(unit) == self._stage.index}
            if own:
                return own
            owners = {self._owner(unit) for unit in undone}
            stale = {index for index in owners if self._stands_still(index)}
            if stale:
                index = min(stale)
                self._stage.log.warning("worker %d stands still; taking over its units", index)
                return {unit for unit in undone if self._owner(unit) == index}
            self._stage.stop.wait(min(LOOK_SECONDS, self._stale_seconds / 4))
            self._stage.progress.update()

    def _owner(self, unit: str) -> int:
        return owner(self._units.index(unit), self._stage.of)

    def _stands_still(self, index: int) -> bool:
        """Without create-only writes no unit is ever taken: its writer must be one."""
        if not self._stage.store.exclusive:
            return False
        look, now = self._look(index), time.monotonic()
        before = self._seen.get(index)
        if before is None or before[0] != look:
            self._seen[index] = (look, now)
            return False
        return now - before[1] >= self._stale_seconds

    def _look(self, index: int) -> str:
        """A hash of the progress objects of every process that has worked under this index."""
        store = self._stage.store
        names = [e.key for e in store.list(self._stage.directory.key("progress"))]
        mine = [store.read(name) for name in names if name.rsplit("/", 1)[-1].startswith(f"{index:03d}-")]
        return hashlib.sha256(b"\n".join(mine)).hexdigest()
