"""An event loop for hundreds of requests in flight: answers that come within milliseconds are handled in one turn.

Waking up for each of 200 answers a second finds cold caches every time, and costs three times what the work itself does
(docs/augment.md). Whoever knows how long an answer takes says how long a turn may wait for more.
"""

import asyncio
import selectors
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

MOST_SECONDS = 0.02
SHARE = 0.005  # of the time that an answer takes: no more may be lost by waiting


class _Selector(selectors.DefaultSelector):
    """Waits for the first event, then `wait_seconds` for more; not while there is something to do."""

    wait_seconds = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """(key, events) of what is ready within `timeout` seconds; None: whenever."""
        found = super().select(0)
        if found or timeout == 0:
            return found
        found = super().select(timeout)
        if not found or not self.wait_seconds:
            return found
        time.sleep(self.wait_seconds)
        return super().select(0)


class GatheringLoop(asyncio.SelectorEventLoop):
    """An event loop that begins as any other."""

    def __init__(self) -> None:
        self._gathering = _Selector()
        super().__init__(self._gathering)

    def answers_take(self, seconds: float) -> None:
        """From now on a turn gathers what comes within SHARE of this, at most MOST_SECONDS."""
        self._gathering.wait_seconds = min(MOST_SECONDS, SHARE * seconds)


def run(main: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, in such a loop."""
    with asyncio.Runner(loop_factory=GatheringLoop) as runner:
        return runner.run(main)
