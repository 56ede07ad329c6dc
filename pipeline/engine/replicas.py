"""Several endpoints as one: each request goes to the least loaded that is there; who is out is tried again.

One watcher for each endpoint reads its load, brings it back once it serves our model again, and finds an outage of all:
Trouble for everybody who waits, when none has answered anything for `outage_seconds`.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Sequence

from pipeline.engine.protocol import Endpoint
from pipeline.engine.replica import Replica
from pipeline.engine.settings import ClientSettings
from pipeline.errors import Trouble, UserError

LOOK_SECONDS = 1.0
RISING_LOOK_SECONDS = 0.1
NO_METRICS_LOOKS = 3  # as many looks without counts from the start on, and it is not asked for them again


class Replicas:
    """Use `place` and `free` in pairs, inside a running event loop; `close` ends the watchers."""

    def __init__(self, endpoints: Sequence[Endpoint], settings: ClientSettings, check: Callable[[], None]) -> None:
        self.all = [Replica(endpoint, settings) for endpoint in endpoints]
        self.in_flight = 0  # requests that hold a place anywhere
        self._settings = settings
        self._check = check
        self.on_room: list[Callable[[], None]] = []  # called when there may be room, or `error` is set
        self.error: Exception | None = None  # what has ended the whole
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._watchers: list[asyncio.Task[None]] = []

    async def place(self, beside: Replica | None = None, at: Replica | None = None) -> Replica:
        """Wait for room and take it: at the least loaded endpoint, `at` this one if it has room, and not `beside`
        another that has. Raises what has ended the whole: Trouble after an outage, what `check` raised."""
        found = self.place_now(beside, at)
        while found is None:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            self.wake()
            try:
                await turn
            except asyncio.CancelledError:
                self.wake()  # the turn may have been given to us already
                raise
            found = self._taken(beside, at)
        return found

    def place_now(self, beside: Replica | None = None, at: Replica | None = None) -> Replica | None:
        """As `place`, without waiting: None when there is no room, or others wait for it."""
        self._watch()
        return self._taken(beside, at) if not self._waiting else None

    def free(self, replica: Replica) -> None:
        """Give a place back."""
        replica.in_flight -= 1
        self.in_flight -= 1
        self.wake()
        pause = replica.resumes - time.monotonic()
        if pause > 0:
            asyncio.get_running_loop().call_later(pause, self.wake)

    def wake(self) -> None:
        """Let as many that wait go on as there is room for."""
        if self._waiting:
            room = len(self._waiting) if self.error else min(self._most - self.in_flight, self._room())
            while self._waiting and room > 0:
                turn = self._waiting.popleft()
                if not turn.done():
                    turn.set_result(None)
                    room -= 1
        for call in self.on_room:
            call()

    def note_silence(self, last: str) -> None:
        """Raise Trouble once every endpoint has answered nothing but failures for `outage_seconds`."""
        self._check()
        since = [replica.silent_since for replica in self.all]
        silent = min(time.monotonic() - (moment or time.monotonic()) for moment in since)
        if silent > self._settings.outage_seconds:
            which = ", ".join(replica.endpoint.url for replica in self.all)
            noun = "endpoint" if len(self.all) == 1 else "endpoints"
            raise Trouble(
                f"the {noun} {which} {'has' if len(self.all) == 1 else 'have'} answered nothing for {silent:.0f} s; "
                f"last: {last}",
                "Bring it back and run again: finished answers are kept",
            )

    def jitter(self, tries: int) -> float:
        """Full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter"): uniform in [0, min(cap, base 2^n)]."""
        ceiling = self._settings.wait_initial_seconds * 2 ** min(tries - 1, 20)
        return random.uniform(0, min(self._settings.wait_max_seconds, ceiling))

    async def close(self) -> None:
        """End the watchers and close idle connections."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        for replica in self.all:
            replica.close()

    @property
    def _most(self) -> int:
        bound = self._settings.concurrency
        return bound if isinstance(bound, int) else sum(replica.level.most for replica in self.all)

    def _room(self) -> int:
        return sum(max(0, replica.level.value - replica.in_flight) for replica in self.all if replica.has_room)

    def _taken(self, beside: Replica | None, at: Replica | None) -> Replica | None:
        if self.error is not None:
            raise self.error
        found = self._choice(beside, at)
        if found is not None:
            found.in_flight += 1
            self.in_flight += 1
        return found

    def _choice(self, beside: Replica | None, at: Replica | None) -> Replica | None:
        if self.in_flight >= self._most:
            return None
        found = [replica for replica in self.all if replica.has_room]
        if at in found:
            return at
        others = [replica for replica in found if replica is not beside] or found
        return min(others, key=lambda replica: replica.in_flight / replica.level.value, default=None)

    def _watch(self) -> None:
        if not self._watchers:
            self._watchers = [asyncio.create_task(self._watch_one(replica)) for replica in self.all]

    async def _watch_one(self, replica: Replica) -> None:
        looks_left = NO_METRICS_LOOKS
        try:
            while True:
                pause = RISING_LOOK_SECONDS if replica.level.is_rising else LOOK_SECONDS
                await asyncio.sleep(self.jitter(replica.times_out) if replica.out else pause)
                if replica.out or replica.doubted:
                    await self._look_again(replica)
                elif looks_left and (load := await replica.load()) is not None:
                    replica.level.told(load, replica.in_flight)
                    looks_left = NO_METRICS_LOOKS
                elif not replica.level.is_told:
                    looks_left = max(0, looks_left - 1)
                self.wake()
        except Exception as error:  # noqa: BLE001 - raised again by `place` in everybody who waits
            self.error = error
            self.wake()

    async def _look_again(self, replica: Replica) -> None:
        try:
            await replica.check_model()
        except (Trouble, UserError) as error:
            replica.leave_out(error.what)
            self.note_silence(error.what)
