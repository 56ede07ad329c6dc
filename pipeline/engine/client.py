"""The one client for any OpenAI-compatible endpoint: chat completions, hundreds in flight, no batch barriers.

Invariants: a request ends as `Answer` or `Failure`, never silently; memory holds only what is in flight; an endpoint
that answers nothing for longer than `outage_seconds` ends as `Trouble`; the API key is read from the environment when
the connection opens, and neither logged nor stored.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import replace
from itertools import islice
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import orjson

from pipeline.engine.protocol import (
    Answer,
    Endpoint,
    Failure,
    Passing,
    authorization,
    error_message,
    outcome,
    parse_metrics,
)
from pipeline.engine.settings import ClientSettings
from pipeline.engine.stream import Delta, deltas
from pipeline.errors import Trouble, UserError

K = TypeVar("K")

LOOPBACK = ("127.0.0.1", "localhost", "::1")
READ_AHEAD = 32
POLL_SECONDS = 0.2
PROBE: dict[str, Any] = {"messages": [{"role": "user", "content": "안녕하세요"}], "max_tokens": 1}


def _never() -> bool:
    return False


class Client:
    """A connection pool to one endpoint; use as `async with Client(endpoint, settings) as client`.

    `check` is called after each failed try and may raise, e.g. because the server's process has died.
    """

    def __init__(self, endpoint: Endpoint, settings: ClientSettings, check: Callable[[], None] = lambda: None) -> None:
        self.endpoint = endpoint
        self.settings = settings
        self.retries = 0
        self.in_flight = 0
        self._check = check
        self._silent_since: float | None = None  # monotonic time of the first failure since the latest answer
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> "Client":
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=self.settings.request_timeout_seconds, sock_connect=30),
            headers={"Content-Type": "application/json", **authorization(self.endpoint)},
            trust_env=urlsplit(self.endpoint.url).hostname not in LOOPBACK,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def ask(
        self,
        requests: Iterator[tuple[K, dict[str, Any]]],
        stop_requested: Callable[[], bool] = _never,
        drain_seconds: float = 5.0,
    ) -> AsyncGenerator[tuple[K, Answer | Failure], None]:
        """Outcomes of (key, body) pairs in the order in which they come, `concurrency` of them in flight.

        `requests` is read a little ahead, in a thread, so it may block on a store. Once `stop_requested()` no new
        request is sent, and what is in flight gets `drain_seconds`. Closing the iterator cancels what is in flight.
        """
        waiting: asyncio.Queue[tuple[K, dict[str, Any]] | None] = asyncio.Queue(self.settings.concurrency)
        finished: asyncio.Queue[tuple[K, Answer | Failure]] = asyncio.Queue(max(1, self.settings.concurrency // 2))
        workers = [
            asyncio.create_task(self._work(waiting, finished, stop_requested)) for _ in range(self.settings.concurrency)
        ]
        tasks = [asyncio.create_task(_feed(requests, waiting, len(workers), stop_requested)), *workers]
        everything = asyncio.gather(*tasks)
        deadline: float | None = None
        try:
            while not (everything.done() and finished.empty()):
                if everything.done():
                    everything.result()  # raises what ended the work early
                if stop_requested():
                    deadline = deadline or time.monotonic() + drain_seconds
                    if time.monotonic() > deadline:
                        return
                taking = asyncio.ensure_future(finished.get())
                either: set[asyncio.Future[Any]] = {taking, everything}
                await asyncio.wait(either, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if taking.done():
                    yield taking.result()
                else:
                    taking.cancel()
            everything.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(everything, *tasks, return_exceptions=True)

    async def chat(self, body: dict[str, Any]) -> Answer | Failure:
        """One chat completion; `body` is the request without `model`. What passes is retried; Trouble on an outage.

        After `attempts` failed tries the request itself is the cause, and fails, only when the endpoint answers
        something else right before and right after one more try: an outage never turns into failed rows.
        """
        tries = counted = 0
        alive_before = False
        while True:
            started = time.monotonic()
            try:
                found = await self._post(body)
                seconds = round(time.monotonic() - started, 3)
                return replace(found, seconds=seconds, retries=tries) if isinstance(found, Answer) else found
            except Passing as error:
                tries, counted = tries + 1, counted + error.counts
                self._check()
                self._note_silence(error)
                if counted >= self.settings.attempts:
                    alive = await self._answers_a_probe()
                    if alive and alive_before:
                        return Failure(error.reason, error.detail)
                    alive_before = alive
                self.retries += 1
                await asyncio.sleep(error.retry_after_seconds + self._jitter(tries))

    async def stream(self, body: dict[str, Any]) -> AsyncIterator[Delta]:
        """One chat completion piece by piece. Not retried: a person is looking. Trouble when the endpoint fails."""
        data = orjson.dumps({"model": self.endpoint.model, **body, "stream": True})
        try:
            async with self._session.post(f"{self.endpoint.url}/chat/completions", data=data) as response:
                if response.status != 200:
                    said = error_message(await response.read())
                    raise Trouble(f"{self.endpoint.url} answered {response.status}: {said}")
                async for delta in deltas(response.content):
                    yield delta
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Trouble(f"{self.endpoint.url}: {type(error).__name__}: {error}", "Is it still up?") from error

    async def models(self) -> list[str]:
        """The names under which the endpoint serves models; UserError when it refuses the key, else Trouble."""
        url = f"{self.endpoint.url}/models"
        try:
            async with self._session.get(url) as response:
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Trouble(f"{url}: {type(error).__name__}: {error}", "Is it up, and its URL right?") from error
        if response.status in (401, 403):
            raise UserError(
                f"{url} refuses the API key: {response.status}",
                "Put a valid key into the variable that api_key_env names",
            )
        try:
            return [str(entry["id"]) for entry in orjson.loads(body)["data"]]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            what = f"{url} answered {response.status}: {error_message(body)}"
            raise Trouble(what, "Must the URL end in /v1?") from error

    async def wait_ready(self, timeout_seconds: float, stop_requested: Callable[[], bool] = _never) -> None:
        """Wait until the endpoint serves the wanted model.

        UserError when it serves others or refuses the key, Trouble when it does not answer in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while not stop_requested():
            self._check()
            try:
                names = await self.models()
            except Trouble as error:
                if time.monotonic() > deadline:
                    raise Trouble(f"{error.what}; waited {timeout_seconds:.0f} s", error.remedy) from error
                await asyncio.sleep(POLL_SECONDS)
                continue
            if self.endpoint.model not in names:
                raise UserError(
                    f"the endpoint {self.endpoint.url} serves {names}, not {self.endpoint.model!r}",
                    "Set served_model_name to one of these, or start the endpoint with the wanted model",
                )
            return

    async def metrics(self) -> dict[str, float]:
        """vLLM's gauges and counters, summed over labels, e.g. {"vllm:num_requests_running": 12.0}; {} without any."""
        try:
            async with self._session.get(f"{self.endpoint.url.removesuffix('/v1')}/metrics") as response:
                text = (await response.read()).decode("utf-8", "replace")
                return parse_metrics(text) if response.status == 200 else {}
        except (aiohttp.ClientError, TimeoutError):
            return {}

    async def _work(
        self,
        waiting: "asyncio.Queue[tuple[K, dict[str, Any]] | None]",
        finished: "asyncio.Queue[tuple[K, Answer | Failure]]",
        stop_requested: Callable[[], bool],
    ) -> None:
        while (item := await waiting.get()) is not None:
            if not stop_requested():
                await finished.put((item[0], await self.chat(item[1])))

    async def _post(self, body: dict[str, Any]) -> Answer | Failure:
        data = orjson.dumps({"model": self.endpoint.model, **body})
        self.in_flight += 1
        try:
            async with self._session.post(f"{self.endpoint.url}/chat/completions", data=data) as response:
                raw = await response.read()
        except TimeoutError as error:
            raise Passing("timeout", f"no answer in {self.settings.request_timeout_seconds:.0f} s") from error
        except aiohttp.ClientError as error:
            raise Passing("server_error", f"{type(error).__name__}: {error}") from error
        finally:
            self.in_flight -= 1
        found = outcome(response.status, raw, response.headers.get("Retry-After", ""))
        self._silent_since = None
        return found

    def _note_silence(self, error: Passing) -> None:
        now = time.monotonic()
        self._silent_since = self._silent_since or now
        if now - self._silent_since > self.settings.outage_seconds:
            raise Trouble(
                f"the endpoint {self.endpoint.url} has answered nothing for {now - self._silent_since:.0f} s; "
                f"last: {error.detail}",
                "Bring it back and run again: finished answers are kept",
            )

    async def _answers_a_probe(self) -> bool:
        try:
            await self._post(PROBE)
        except Passing:
            return False
        return True

    def _jitter(self, tries: int) -> float:
        """Full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter"): uniform in [0, min(cap, base 2^n)]."""
        ceiling = min(self.settings.wait_max_seconds, self.settings.wait_initial_seconds * 2 ** min(tries - 1, 20))
        return random.uniform(0, ceiling)


async def _feed(
    requests: Iterator[tuple[K, dict[str, Any]]],
    waiting: "asyncio.Queue[tuple[K, dict[str, Any]] | None]",
    workers: int,
    stop_requested: Callable[[], bool],
) -> None:
    """Move requests into the bounded queue, reading a few at a time in a thread; one None per worker ends it."""
    while not stop_requested() and (batch := await asyncio.to_thread(lambda: list(islice(requests, READ_AHEAD)))):
        for item in batch:
            await waiting.put(item)
    for _ in range(workers):
        await waiting.put(None)
