"""The OpenAI chat protocol as vLLM speaks it: answers, failures, error bodies, metrics. Parsing only, no connection.

Reasoning set apart by a server's parser comes as `reasoning` (vLLM since 0.12) or `reasoning_content` (before, and
others): both are read, one is never lost.
"""

import os
import time
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from pipeline.errors import UserError

# About the endpoint and not about the request: another process, a proxy or an operator mends it
PASSING_STATUS = frozenset({401, 402, 403, 404, 408, 409, 425, 429})
OVER_LENGTH_WORDS = (
    "maximum context length",
    "context_length_exceeded",
    "max_model_len",
    "maximum model length",
    "too long",
)
DETAIL_CHARACTERS = 300


@dataclass(frozen=True)
class Answer:
    """What the model said. `reasoning` is what the server's parser set apart, None without one.

    `seconds` is how long the last try took, `retries` how many came before it: about the asking, not the answer.
    """

    content: str
    reasoning: str | None
    finish_reason: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = field(default=0.0, compare=False)
    retries: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Endpoint:
    """Where a model answers: `url` ends in /v1; `api_key_env` names the variable that holds the key.

    `special_tokens`: of a tokenizer that counts the think tags among them, all the others (`special_beside_tags`). A
    server leaves special tokens out of its text, so they are asked for then, and all but the tags taken out here.
    """

    url: str
    model: str
    api_key_env: str | None = None
    special_tokens: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """What every request to it carries."""
        return {"skip_special_tokens": False} if self.special_tokens else {}

    def text(self, said: str) -> str:
        """What was said without special tokens. Example: "<think>1</think>2<|im_end|>" -> "<think>1</think>2" """
        for token in self.special_tokens:
            said = said.replace(token, "")
        return said

    def shown(self, answer: Answer) -> Answer:
        """The answer without special tokens."""
        if not self.special_tokens:
            return answer
        reasoning = self.text(answer.reasoning) if answer.reasoning is not None else None
        return replace(answer, content=self.text(answer.content), reasoning=reasoning)


@dataclass(frozen=True)
class Failure:
    """A request that will not be answered: reason `over_length`, `refused_<status>`, `server_error` or `timeout`."""

    reason: str
    detail: str


class Passing(Exception):
    """A try that may succeed when repeated. `counts`: whether it uses up one of the request's attempts."""

    def __init__(self, reason: str, detail: str, *, counts: bool = True, retry_after_seconds: float = 0.0) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.counts = counts
        self.retry_after_seconds = retry_after_seconds


def authorization(endpoint: Endpoint) -> dict[str, str]:
    """The Authorization header, its key read from the environment now; UserError when the named variable is empty."""
    if endpoint.api_key_env is None:
        return {}
    key = os.environ.get(endpoint.api_key_env, "").strip()
    if not key:
        raise UserError(
            f"the environment variable {endpoint.api_key_env} is empty; {endpoint.url} needs the API key in it",
            f"export {endpoint.api_key_env}=..., or leave api_key_env out for an endpoint without keys",
        )
    return {"Authorization": f"Bearer {key}"}


def outcome(status: int, body: bytes, retry_after: str, seconds: float = 0.0) -> Answer | Failure:
    """What a complete HTTP response means that took so long. Raises Passing for what may succeed when repeated."""
    if status == 200:
        return read_answer(body, seconds)
    detail = f"{status}: {error_message(body)}"
    if status in PASSING_STATUS:
        raise Passing(f"refused_{status}", detail, counts=False, retry_after_seconds=_seconds(retry_after))
    if status >= 500:
        pause = _seconds(retry_after)  # an endpoint that names a time speaks of itself, not of the request
        raise Passing("server_error", detail, counts=not pause, retry_after_seconds=pause)
    over_length = any(words in detail.lower() for words in OVER_LENGTH_WORDS)
    return Failure("over_length" if over_length else f"refused_{status}", detail)


def read_answer(body: bytes, seconds: float = 0.0) -> Answer:
    """The first choice of a chat completion; a body that is none (a cut one, a proxy's page) is Passing."""
    try:
        value = orjson.loads(body)
        choice = value["choices"][0]
        message = choice["message"]
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError) as error:
        raise Passing("server_error", f"not a chat completion: {body[:80]!r}") from error
    usage = value.get("usage") or {}
    return Answer(
        content=message.get("content") or "",
        reasoning=reasoning_of(message),
        finish_reason=choice.get("finish_reason") or "",
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        completion_tokens=int(usage.get("completion_tokens") or 0),
        seconds=seconds,
    )


def reasoning_of(message: dict[str, Any]) -> str | None:
    """The reasoning of a message or a stream's delta, under either of its names."""
    found = message.get("reasoning") or message.get("reasoning_content")
    return found if isinstance(found, str) else None


def error_message(body: bytes) -> str:
    """The message of an error body, whatever its shape, shortened."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body[:DETAIL_CHARACTERS].decode("utf-8", "replace").strip()
    error = value.get("error", value) if isinstance(value, dict) else value
    message = error.get("message", error) if isinstance(error, dict) else error
    return str(message)[:DETAIL_CHARACTERS]


def parse_metrics(text: str) -> dict[str, float]:
    """Prometheus text summed over labels (prometheus.io, "Exposition formats").

    Example: 'vllm:num_requests_running{model="a"} 3\\n' -> {"vllm:num_requests_running": 3.0}
    """
    totals: dict[str, float] = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        name_and_labels, _, rest = line.rpartition("} ") if "{" in line else line.partition(" ")
        name = name_and_labels.partition("{")[0]
        try:
            totals[name] = totals.get(name, 0.0) + float(rest.split()[0])
        except (ValueError, IndexError):
            continue
    return totals


def _seconds(retry_after: str) -> float:
    """The Retry-After header in seconds from now, given as seconds or as a date (RFC 9110, section 10.2.3).

    Nonsense counts as 0: our own wait applies. Example: "120" -> 120.0; "Fri, 31 Dec 1999 23:59:59 GMT" -> 0.0
    """
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return 0.0
