"""The one client for OpenAI-compatible endpoints: chat completions, hundreds in flight, no batch barriers.

Invariants: a request ends as `Answer` or `Failure`, never silently; memory holds only what is in flight; endpoints that
answer nothing for longer than `outage_seconds` end as `Trouble`; the API key is read from the environment when the
client opens, and neither logged nor stored.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from itertools import count, islice
from types import TracebackType
from typing import Any, Generic, TypeVar

from pipeline.engine.gathering import GatheringLoop
from pipeline.engine.http import BrokenError, Call
from pipeline.engine.protocol import Answer, Endpoint, Failure, Passing
from pipeline.engine.replica import Body, Replica
from pipeline.engine.replicas import Replicas
from pipeline.engine.settings import ClientSettings
from pipeline.engine.stream import Delta, deltas
from pipeline.errors import Trouble

K = TypeVar("K")

READ_AHEAD = 32
POLL_SECONDS = 0.2
GATHER_SECONDS = 0.05
PROBE: Body = {"messages": [{"role": "user", "content": "안녕하세요"}], "max_tokens": 1}


def _never() -> bool:
    return False


class Client:
    """One model behind one endpoint or several; use as `async with Client(endpoint, settings) as client`.

    `check` is called after each failed try and may raise, e.g. because the server's process has died.
    """

    def __init__(
        self,
        endpoints: Endpoint | Sequence[Endpoint],
        settings: ClientSettings,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings = settings
        self.retries = 0
        self._endpoints = [endpoints] if isinstance(endpoints, Endpoint) else list(endpoints)
        self._check = check
        self._replicas: Replicas

    async def __aenter__(self) -> "Client":
        self._replicas = Replicas(self._endpoints, self.settings, self._check)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._replicas.close()

    @property
    def in_flight(self) -> int:
        """Requests that are out, those that wait before a retry included."""
        return self._replicas.in_flight

    async def ask(
        self,
        requests: Iterator[tuple[K, Body]],
        stop_requested: Callable[[], bool] = _never,
        drain_seconds: float = 5.0,
    ) -> AsyncGenerator[tuple[K, Answer | Failure], None]:
        """The outcomes that `batches` gives, one by one and each at once."""
        async with aclosing(self.batches(requests, stop_requested, drain_seconds, gather_seconds=0.0)) as batches:
            async for batch in batches:
                for item in batch:
                    yield item

    async def batches(
        self,
        requests: Iterator[tuple[K, Body]],
        stop_requested: Callable[[], bool] = _never,
        drain_seconds: float = 5.0,
        poll_seconds: float = POLL_SECONDS,
        gather_seconds: float = GATHER_SECONDS,
    ) -> AsyncGenerator[list[tuple[K, Answer | Failure]], None]:
        """Outcomes of (key, body) pairs in the order in which they come, as many together as are there.

        An empty batch is a sign of life, given when nothing has come for `poll_seconds`. As many requests are in flight
        as the endpoints take, `concurrency` at most. `requests` is read a little ahead, in a thread, so it may block
        on a store. Once `stop_requested()` no new request is sent, and what is in flight gets `drain_seconds`. Closing
        the iterator cancels what is in flight.
        """
        flow = _Flow(self, self._replicas, requests, stop_requested)
        deadline: float | None = None
        try:
            while True:
                await flow.wait(poll_seconds, gather_seconds)
                yield flow.take()
                stopping = stop_requested()
                if flow.is_over(stopping):
                    return
                if stopping:
                    deadline = deadline or time.monotonic() + drain_seconds
                    if time.monotonic() > deadline:
                        return
        finally:
            await flow.cancel()

    async def chat(self, body: Body, replica: Replica | None = None, failed: Passing | None = None) -> Answer | Failure:
        """One chat completion; `body` is the request without `model`. What passes is retried; Trouble on an outage.

        `replica`: a place that was taken for it, `failed`: how a first try ended there. After `attempts` failed tries
        the request itself is the cause, and fails, only when the endpoint answers something else right before and
        right after one more try: an outage never turns into failed rows.
        """
        tries = counted = 0
        alive: Replica | None = None  # answered something else right before
        replica = replica or await self._replicas.place()
        while True:
            try:
                found = failed or await replica.post(body)
                if not isinstance(found, Exception):
                    return replace(found, retries=tries) if tries and isinstance(found, Answer) else found
                if not isinstance(found, Passing):
                    raise found
                tries, counted, failed = tries + 1, counted + found.counts, None
                self._replicas.note_silence(found.detail)
                if counted >= self.settings.attempts:
                    answers = not isinstance(await replica.post(PROBE), Exception)
                    if answers and alive is replica:
                        return Failure(found.reason, found.detail)
                    alive = replica if answers else None
                self.retries += 1
                await asyncio.sleep(self._replicas.jitter(tries))
            finally:
                self._replicas.free(replica)
            replica = await self._replicas.place(beside=replica, at=alive)

    async def stream(self, body: dict[str, Any]) -> AsyncIterator[Delta]:
        """One chat completion piece by piece. Not retried: a person is looking. Trouble when the endpoint fails."""
        replica = self._replicas.all[0]
        endpoint = replica.endpoint
        try:
            async with replica.stream(body) as lines:
                async for delta in deltas(lines):
                    shown = Delta(endpoint.text(delta.reasoning), endpoint.text(delta.content))
                    if shown != Delta():
                        yield shown
        except BrokenError as error:
            raise Trouble(f"{endpoint.url}: {error}", "Is it still up?") from error

    async def models(self) -> list[str]:
        """The names under which the first endpoint serves models; UserError when it refuses the key, else Trouble."""
        return await self._replicas.all[0].models()

    async def wait_ready(self, timeout_seconds: float, stop_requested: Callable[[], bool] = _never) -> None:
        """Wait until an endpoint serves the wanted model; others that do not answer yet are left out until they do.

        UserError when one serves others or refuses the key, Trouble when none answers in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while not stop_requested():
            self._check()
            found = await asyncio.gather(*(_looked_at(replica) for replica in self._replicas.all))
            if None in found:
                for replica, trouble in zip(self._replicas.all, found, strict=True):
                    if trouble is not None:
                        replica.leave_out(trouble.what)
                return
            first = next(trouble for trouble in found if trouble is not None)
            if time.monotonic() > deadline:
                raise Trouble(f"{first.what}; waited {timeout_seconds:.0f} s", first.remedy) from first
            await asyncio.sleep(POLL_SECONDS)

    async def metrics(self) -> dict[str, float]:
        """vLLM's gauges and counters at the first endpoint, e.g. {"vllm:num_requests_running": 12.0}; {} without."""
        return await self._replicas.all[0].metrics()


async def _looked_at(replica: Replica) -> Trouble | None:
    try:
        await replica.check_model()
    except Trouble as error:
        return error
    return None


class _Flow(Generic[K]):
    """One pass of requests through the client: read ahead, a place and a call for each, the outcomes.

    A call tells its end by a callback, in the turn of the loop in which the answer came; only what must be tried again
    becomes a task.
    """

    def __init__(
        self,
        client: Client,
        replicas: Replicas,
        requests: Iterator[tuple[K, Body]],
        stop_requested: Callable[[], bool],
    ) -> None:
        self._client, self._replicas = client, replicas
        self._requests, self._stop_requested = requests, stop_requested
        self._ahead: deque[tuple[K, Body]] = deque()
        self._finished: list[tuple[K, Answer | Failure]] = []
        self._calls: dict[int, tuple[Call, Replica]] = {}  # by a number of their own
        self._tasks: set[asyncio.Task[Answer | Failure]] = set()
        self._numbers = count()
        self._something = asyncio.Event()  # for the caller: an outcome, an error, the end
        self._wanting = asyncio.Event()  # for the reader: little is left of what it read
        self._error: BaseException | None = None
        self._reader = asyncio.create_task(self._read_on())
        self._reader.add_done_callback(self._has_read)
        replicas.on_room.append(self._start)

    async def wait(self, seconds: float, gather_seconds: float) -> None:
        """Until something is there to take, at most so long; what comes right after is taken with it."""
        try:
            async with asyncio.timeout(seconds):
                await self._something.wait()
        except TimeoutError:
            return
        if not self._reader.done():
            await asyncio.sleep(gather_seconds)

    def take(self) -> list[tuple[K, Answer | Failure]]:
        """The outcomes since the last time. Raises what has ended the pass early, once all before it are taken."""
        self._something.clear()
        taken, self._finished = self._finished, []
        seconds = [outcome.seconds for _, outcome in taken if isinstance(outcome, Answer)]
        loop = asyncio.get_running_loop()
        if seconds and isinstance(loop, GatheringLoop):
            loop.answers_take(sum(seconds) / len(seconds))
        self._start()
        if self._error is not None and not taken:
            raise self._error
        return taken

    def is_over(self, stopping: bool) -> bool:
        """Whether nothing more will come."""
        if self._error is not None or self._finished or self._calls or self._tasks:
            return False
        return stopping or (self._reader.done() and not self._ahead)

    async def cancel(self) -> None:
        """End everything that is under way."""
        self._replicas.on_room.remove(self._start)
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await asyncio.sleep(0)  # a task that has not begun would not give its place back
        for call, replica in self._calls.values():
            call.cancel()
            self._replicas.free(replica)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _read_on(self) -> None:
        """Keep a few requests ahead; they are read in a thread, the next ones while these are sent."""
        reading = self._read()
        try:
            while (batch := await reading) and not self._stop_requested():
                reading = self._read()
                self._ahead.extend(batch)
                self._start()
                while len(self._ahead) >= READ_AHEAD:
                    self._wanting.clear()
                    await self._wanting.wait()
        finally:
            reading.cancel()

    def _read(self) -> "asyncio.Task[list[tuple[K, Body]]]":
        return asyncio.create_task(asyncio.to_thread(lambda: list(islice(self._requests, READ_AHEAD))))

    def _start(self) -> None:
        """Send as many requests as there are places for, unless the caller is far behind."""
        self._error = self._error or self._replicas.error
        most = max(READ_AHEAD, len(self._calls) + len(self._tasks))
        while self._ahead and self._error is None and len(self._finished) <= most:
            replica = None if self._stop_requested() else self._replicas.place_now()
            if replica is None:
                break
            key, body = self._ahead.popleft()
            number = next(self._numbers)
            self._calls[number] = replica.send(body, partial(self._came, number, key, body, replica)), replica
        if self._error is not None:
            self._something.set()
        if len(self._ahead) < READ_AHEAD:
            self._wanting.set()

    def _came(self, number: int, key: K, body: Body, replica: Replica, found: Answer | Failure | Exception) -> None:
        """A call has ended: keep its outcome, or try again."""
        del self._calls[number]
        if isinstance(found, Passing):
            task = asyncio.create_task(self._client.chat(body, replica, found))
            self._tasks.add(task)
            task.add_done_callback(partial(self._done, key))
            return
        if isinstance(found, Exception):
            self._error = self._error or found
        else:
            self._finished.append((key, found))
        self._something.set()
        self._replicas.free(replica)

    def _done(self, key: K, task: "asyncio.Task[Answer | Failure]") -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._finished.append((key, task.result()))
        self._error = self._error or error
        self._something.set()

    def _has_read(self, reader: "asyncio.Task[None]") -> None:
        if not reader.cancelled():
            self._error = self._error or reader.exception()
        self._something.set()
