"""One endpoint of several that serve the same model: its connections, how much it is given, and whether it is there.

Invariant: an endpoint that is out gets no request until it has answered for its models, ours among them.
"""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import orjson

from pipeline.engine.http import BrokenError, Origin, lines
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
        self._path = urlsplit(endpoint.url).path.rstrip("/")
        self._origin = Origin(endpoint.url, {"Content-Type": "application/json", **authorization(endpoint)})

    @property
    def has_room(self) -> bool:
        """Whether it may get one more request now."""
        return not self.out and self.in_flight < self.level.value and time.monotonic() >= self.resumes

    async def post(self, body: dict[str, Any]) -> Answer | Failure:
        """One try of one chat completion. Raises Passing for what may succeed when repeated, here or elsewhere."""
        sent = time.monotonic()
        try:
            answered = await self._origin.request(
                "POST", f"{self._path}/chat/completions", self._request(body), timeout_seconds=self._seconds
            )
            found = outcome(answered.status, answered.body, answered.headers.get("retry-after", ""))
        except TimeoutError as error:
            raise self._failed(Passing("timeout", f"no answer in {self._seconds:.0f} s"), sent) from error
        except BrokenError as error:
            self.doubted = True
            reason = "unreachable" if error.unreachable else "server_error"
            raise self._failed(Passing(reason, str(error), counts=not error.unreachable), sent) from error
        except Passing as error:
            raise self._failed(error, sent) from error
        self.level.answered(self.in_flight)
        self.silent_since, self._failures, self.times_out = None, 0, 0
        return self.endpoint.shown(found) if isinstance(found, Answer) else found

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

    def _request(self, body: dict[str, Any]) -> bytes:
        return orjson.dumps({"model": self.endpoint.model, **body, **self.endpoint.options})

    def _failed(self, error: Passing, sent: float) -> Passing:
        """Note what a failed try says about the endpoint; gives the error back."""
        now = time.monotonic()
        self.silent_since = self.silent_since or now
        self._failures += 1
        self.resumes = max(self.resumes, now + error.retry_after_seconds)
        if error.reason in ("refused_429", "timeout"):
            self.level.refused(sent)
        elif error.reason in REFUSES_ALL or self._failures >= FAILURES_IN_A_ROW:
            self.leave_out(error.detail)
        return error
