"""One endpoint of several that serve the same model: its connections, how much it is given, and whether it is there.

Invariant: an endpoint that is out gets no request until it has answered for its models, ours among them.
"""

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import orjson

from pipeline.engine.http import BrokenError, Call, Origin, Outcome, lines, outcome_of
from pipeline.engine.level import Level, Load, load_of
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
from pipeline.errors import Trouble, UserError

Body = dict[str, Any] | bytes  # a chat request without its model, or the same as JSON

LOG = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 8  # without an answer in between: then it is out
LOOK_TIMEOUT_SECONDS = 30.0
REFUSES_ALL = frozenset({"refused_401", "refused_402", "refused_403", "refused_404", "unreachable"})


class Replica:
    """`in_flight` counts requests that hold a place here, those that wait before a retry included."""

    def __init__(self, endpoint: Endpoint, settings: ClientSettings) -> None:
        self.endpoint = endpoint
        self.level = Level(settings.concurrency)
        self.in_flight = 0
        self.out = ""  # why it gets no request; empty while it does
        self.times_out = 0  # since its latest answer
        self.silent_since: float | None = None  # monotonic time of the first failure since its latest answer
        self.resumes = 0.0  # monotonic time until which it asked to be left alone
        self.doubted = False  # cut a connection: it may have been started again as something else
        self._failures = 0
        self._seconds = settings.request_timeout_seconds
        self._own = orjson.dumps({"model": endpoint.model, **endpoint.options})[:-1] + b","
        self._path = urlsplit(endpoint.url).path.rstrip("/")
        self._origin = Origin(endpoint.url, {"Content-Type": "application/json", **authorization(endpoint)})

    @property
    def has_room(self) -> bool:
        """Whether it may get one more request now."""
        return not self.out and self.in_flight < self.level.value and time.monotonic() >= self.resumes

    def send(self, body: Body, done: Callable[[Answer | Failure | Exception], None]) -> Call:
        """Begin one try of one chat completion; `done` gets Passing for what may succeed when repeated, here or
        elsewhere."""
        judged = partial(self._judged, time.monotonic(), done)
        path = f"{self._path}/chat/completions"
        return self._origin.send("POST", path, self._request(body), self._seconds, judged)

    async def post(self, body: Body) -> Answer | Failure | Exception:
        """As `send`."""
        return await outcome_of(partial(self.send, body))

    @asynccontextmanager
    async def stream(self, body: dict[str, Any]) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of one streamed chat completion. Trouble when the endpoint refuses it."""
        path, data = f"{self._path}/chat/completions", self._request({**body, "stream": True})
        async with self._origin.stream("POST", path, data) as (status, pieces):
            if status != 200:
                said = error_message(b"".join([piece async for piece in pieces]))
                raise Trouble(f"{self.endpoint.url} answered {status}: {said}")
            yield lines(pieces)

    async def models(self) -> list[str]:
        """The names under which it serves models; UserError when it refuses the key, else Trouble."""
        url = f"{self.endpoint.url}/models"
        try:
            found = await self._origin.request("GET", f"{self._path}/models", timeout_seconds=LOOK_TIMEOUT_SECONDS)
        except (BrokenError, TimeoutError) as error:
            raise Trouble(f"{url}: {error or 'no answer'}", "Is it up, and its URL right?") from error
        if found.status in (401, 403):
            raise UserError(
                f"{url} refuses the API key: {found.status}",
                "Put a valid key into the variable that api_key_env names",
            )
        try:
            return [str(entry["id"]) for entry in orjson.loads(found.body)["data"]]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            what = f"{url} answered {found.status}: {error_message(found.body)}"
            raise Trouble(what, "Must the URL end in /v1?") from error

    async def check_model(self) -> None:
        """Put it back in service when it serves the wanted model. UserError when it serves others, else as `models`."""
        names = await self.models()
        if self.endpoint.model not in names:
            raise UserError(
                f"the endpoint {self.endpoint.url} serves {names}, not {self.endpoint.model!r}",
                "Set served_model_name to one of these, or start the endpoint with the wanted model",
            )
        if self.out:
            LOG.warning("the endpoint %s is back", self.endpoint.url)
        self.out, self.doubted, self._failures = "", False, 0

    async def metrics(self) -> dict[str, float]:
        """Its gauges and counters, summed over labels; {} without any."""
        path = f"{self._path.removesuffix('/v1')}/metrics"
        try:
            found = await self._origin.request("GET", path, timeout_seconds=LOOK_TIMEOUT_SECONDS)
        except (BrokenError, TimeoutError):
            return {}
        return parse_metrics(found.body.decode("utf-8", "replace")) if found.status == 200 else {}

    async def load(self) -> Load | None:
        """What runs and waits there, as vLLM tells it; None when it does not."""
        return load_of(await self.metrics())

    def leave_out(self, why: str) -> None:
        """Give it no request until `check_model` finds it well."""
        if not self.out:
            LOG.warning("the endpoint %s is left out until it is well: %s", self.endpoint.url, why)
        self.out = why
        self.times_out += 1
        self.silent_since = self.silent_since or time.monotonic()

    def close(self) -> None:
        """Close its idle connections."""
        self._origin.close()

    def _request(self, body: Body) -> bytes:
        return self._own + (body if isinstance(body, bytes) else orjson.dumps(body))[1:]

    def _judged(self, sent: float, done: Callable[[Answer | Failure | Exception], None], came: Outcome) -> None:
        try:
            found: Answer | Failure | Exception = self._read(sent, came)
        except Exception as error:  # noqa: BLE001 - told to who asked, as everything
            found = error
        done(found)

    def _read(self, sent: float, came: Outcome) -> Answer | Failure:
        """What came back as an outcome, noted for the level. Raises Passing."""
        try:
            if isinstance(came, TimeoutError):
                raise Passing("timeout", f"no answer in {self._seconds:.0f} s") from came
            if isinstance(came, BrokenError):
                self.doubted = True
                reason = "unreachable" if came.unreachable else "server_error"
                raise Passing(reason, str(came), counts=not came.unreachable) from came
            seconds = round(time.monotonic() - sent, 3)
            found = outcome(came.status, came.body, came.headers.get("retry-after", ""), seconds)
        except Passing as error:
            self._note_failed(error, sent)
            raise
        self.level.answered(self.in_flight)
        self.silent_since, self._failures, self.times_out = None, 0, 0
        return self.endpoint.shown(found) if isinstance(found, Answer) else found

    def _note_failed(self, error: Passing, sent: float) -> None:
        """Note what a failed try says about the endpoint."""
        now = time.monotonic()
        self.silent_since = self.silent_since or now
        self._failures += 1
        self.resumes = max(self.resumes, now + error.retry_after_seconds)
        if error.reason in ("refused_429", "timeout"):
            self.level.refused(sent)
        elif error.reason in REFUSES_ALL or self._failures >= FAILURES_IN_A_ROW:
            self.leave_out(error.detail)
