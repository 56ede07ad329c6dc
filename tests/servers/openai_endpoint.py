"""An OpenAI-compatible endpoint over real HTTP whose answers are a function of the request: a scripted teacher.

`python -m tests.servers.openai_endpoint [--port 0] [--model teacher]`. The same messages always get the same answer.
What a question holds decides how it is answered: `[over-length]` and `[refused]` are 400, `[poison]` is always 500,
`[length]` is cut off by max_tokens, `[silent]` gives no reasoning, `[wrong]` a wrong answer, `[slow]` takes ten times
as long. `GET /stats` says how often each request was answered. `POST /control` sets the behaviour of the whole server:

| setting | what it does |
|---|---|
| latency_seconds, latency_sigma | uniform in 0.5 to 1.5 times the first; with sigma log-normal around it |
| fault_rate | share of requests whose first try fails: 500, 502, 429 with Retry-After or a cut connection |
| down | every request is 503 |
| style, steps | how reasoning is set apart; how many steps it has |
| models, key | what is served, for which key; any other model is 404 |
| slots | requests that run at once, as in an engine; the others wait, and /metrics says so |
| preempts_above | running requests above which each new one counts as a preemption |
| metrics | false: /metrics is 404, as at most other endpoints |
| most_in_flight, retry_after | above that many every request is 429, with this Retry-After; "date:2" is a date in 2 s |
| special_tags | think tags and the end of turn are special tokens: in the text only with skip_special_tokens false |
"""

import argparse
import asyncio
import hashlib
import json
import random
import re
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

from aiohttp import web

from tests.servers.process import announce, die_with_parent, server_process

FAULTS = ("500", "429", "cut", "502")
PADDING = "주어진 조건을 하나씩 다시 확인하고, 앞에서 얻은 값을 다음 식에 넣어 계산한 뒤 단위와 부호를 점검합니다."
END_OF_TURN = "<|im_end|>"


@dataclass(frozen=True)
class OpenAIServer:
    """A running endpoint; `url` ends in /v1."""

    address: str

    @property
    def url(self) -> str:
        """The base URL for a client."""
        return f"{self.address}/v1"

    def control(self, **settings: Any) -> None:
        """Change the server's behaviour, e.g. control(latency_seconds=0.2, fault_rate=0.1); reset=True: all as new."""
        body = json.dumps(settings).encode()
        with urllib.request.urlopen(f"{self.address}/control", data=body, timeout=10) as response:
            response.read()

    def stats(self) -> dict[str, Any]:
        """{"answered": {request hash: times}, "received": n, "most_in_flight": n, "bodies": [...the last 50]}."""
        with urllib.request.urlopen(f"{self.address}/stats", timeout=10) as response:
            return json.loads(response.read())  # type: ignore[no-any-return]


@contextmanager
def openai_server(*arguments: str) -> Iterator[OpenAIServer]:
    """Start the server in its own process for the length of a `with` block."""
    with server_process("tests.servers.openai_endpoint", *arguments) as address:
        yield OpenAIServer(address)


def scripted(question: str, style: str, steps: int = 2) -> dict[str, Any]:
    """The message that answers a question: sums are right unless it says `[wrong]`, other answers follow its hash."""
    numbers = [int(number) for number in re.findall(r"\d+", question)[:2]]
    result = str(sum(numbers)) if numbers else hashlib.sha256(question.encode()).hexdigest()[:6]
    if "[wrong]" in question:
        result = "틀린 답"
    between = "".join(f"\n{step}단계: {PADDING}" for step in range(2, steps))
    thought = f"1단계: {question[:20]} 살펴봅니다.{between}\n{max(steps, 2)}단계: 값은 {result}입니다."
    if "[silent]" in question:
        return {"content": f"정답: {result}"}
    if style == "parser":
        return {"content": f"정답: {result}", "reasoning": thought}
    if style == "parser_old":
        return {"content": f"정답: {result}", "reasoning_content": thought}
    if style == "open_in_prompt":
        return {"content": f"{thought}\n</think>\n\n정답: {result}"}
    if style == "steps":
        return {"content": f"{thought}\n\n최종 답변: {result}"}
    return {"content": f"<think>\n{thought}\n</think>\n\n정답: {result}"}


class Endpoint:
    """The server's state and handlers."""

    def __init__(self, model: str) -> None:
        self.settings: dict[str, Any] = {
            "latency_seconds": 0.0, "latency_sigma": 0.0, "fault_rate": 0.0, "down": False, "style": "tags", "steps": 2,
            "models": [model], "key": None, "slots": None, "preempts_above": None, "metrics": True,
            "most_in_flight": None, "retry_after": None, "special_tags": False,
        }  # fmt: skip
        self.defaults = dict(self.settings)
        self.tries: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.in_flight = self.most_in_flight = 0
        self.running = self.preemptions = 0
        self.changed = asyncio.Condition()

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions."""
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._chat(request, await request.json())
        finally:
            self.in_flight -= 1

    async def _chat(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        settings = self.settings
        name = hashlib.sha256(json.dumps(body["messages"], ensure_ascii=False).encode()).hexdigest()
        question = body["messages"][-1]["content"]
        self.tries[name] += 1
        self.bodies = [*self.bodies[-49:], body]
        if settings["down"]:
            return _error(503, "down for maintenance")
        if settings["key"] and request.headers.get("Authorization") != f"Bearer {settings['key']}":
            return _error(401, "invalid api key")
        if body.get("model") not in settings["models"]:
            return _error(404, f"The model `{body.get('model')}` does not exist.")
        if settings["most_in_flight"] is not None and self.in_flight > settings["most_in_flight"]:
            return _error(429, "slow down", _retry_after(settings["retry_after"]))
        if "[over-length]" in question:
            return _error(400, "This model's maximum context length is 64 tokens, however you requested 90")
        if "[refused]" in question:
            return _error(400, "the prompt is refused")
        if "[poison]" in question:
            return _error(500, "internal error")
        if self.tries[name] == 1 and int(name[:8], 16) / 0xFFFFFFFF < settings["fault_rate"]:
            return await self._fault(request, FAULTS[int(name[8:10], 16) % len(FAULTS)])
        async with self._slot():
            await asyncio.sleep(self._seconds(name) * (10 if "[slow]" in question else 1))
        message = scripted(question, settings["style"], settings["steps"])
        if settings["special_tags"]:
            message["content"] = _without_special(message["content"], body.get("skip_special_tokens", True))
        if body.get("stream"):
            return await _stream(request, message)
        self.answered[name] += 1
        finish = "length" if "[length]" in question else "stop"
        choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
        usage = {"prompt_tokens": len(question), "completion_tokens": len(message["content"])}
        return web.json_response({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage})

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """Wait for one of the engine's slots, and for one that is not over the settings' bound."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.settings["slots"] is None or self.running < self.settings["slots"])
            self.running += 1
            bound = self.settings["preempts_above"]
            self.preemptions += bound is not None and self.running > bound
        try:
            yield
        finally:
            self.running -= 1
            if self.settings["slots"] is not None:
                async with self.changed:
                    self.changed.notify()

    def _seconds(self, name: str) -> float:
        """How long the request of this hash takes."""
        sigma = self.settings["latency_sigma"]
        if sigma:
            return float(self.settings["latency_seconds"] * random.Random(name).lognormvariate(0, sigma))
        return float(self.settings["latency_seconds"] * (0.5 + int(name[10:12], 16) / 255))

    async def _fault(self, request: web.Request, fault: str) -> web.StreamResponse:
        if fault == "cut":
            response = web.StreamResponse(headers={"Content-Length": "1000"})
            await response.prepare(request)
            await response.write(b'{"choices": [{"mess')
            assert request.transport is not None
            request.transport.abort()
            return response
        if fault == "429":
            return _error(429, "slow down", {"Retry-After": "0.05"})
        return _error(int(fault), "passing trouble")

    async def models(self, request: web.Request) -> web.Response:
        """GET /v1/models."""
        if self.settings["down"]:
            return _error(503, "down for maintenance")
        if self.settings["key"] and request.headers.get("Authorization") != f"Bearer {self.settings['key']}":
            return _error(401, "invalid api key")
        return web.json_response({"object": "list", "data": [{"id": name} for name in self.settings["models"]]})

    async def control(self, request: web.Request) -> web.Response:
        """POST /control."""
        wanted = await request.json()
        if wanted.pop("reset", False):
            self.settings.update(self.defaults)
        self.settings.update(wanted)
        async with self.changed:
            self.changed.notify_all()
        return web.json_response(self.settings)

    async def stats(self, request: web.Request) -> web.Response:
        """GET /stats."""
        counts = {"answered": self.answered, "received": sum(self.tries.values()), "tries": self.tries}
        return web.json_response({**counts, "most_in_flight": self.most_in_flight, "bodies": self.bodies})

    async def metrics(self, request: web.Request) -> web.Response:
        """GET /metrics, as vLLM writes them."""
        if not self.settings["metrics"]:
            return _error(404, "not found")
        told = {
            "vllm:num_requests_running": self.running, "vllm:num_requests_waiting": self.in_flight - self.running,
            "vllm:num_preemptions_total": self.preemptions,
        }  # fmt: skip
        lines = [f'# HELP {name} x\n{name}{{model_name="t"}} {value}.0\n' for name, value in told.items()]
        return web.Response(text="".join(lines))


async def _stream(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for field in ("reasoning", "reasoning_content", "content"):
        text = message.get(field, "")
        for start in range(0, len(text), 3):
            chunk = {"choices": [{"index": 0, "delta": {field: text[start : start + 3]}}]}
            await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    await response.write(b"data: [DONE]\n\n")
    return response


def _without_special(text: str, skip: bool) -> str:
    """The text as a server gives it whose tokenizer counts the think tags among the special tokens."""
    return re.sub(r"</?think>", "", text) if skip else text + END_OF_TURN


def _retry_after(setting: str | None) -> dict[str, str]:
    if setting is None:
        return {}
    _, is_date, seconds = setting.partition("date:")
    return {"Retry-After": formatdate(time.time() + float(seconds), usegmt=True) if is_date else setting}


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"message": message, "code": status}}, status=status, headers=headers)


async def serve(port: int, model: str) -> None:
    """Serve until killed."""
    endpoint = Endpoint(model)
    application = web.Application(client_max_size=1 << 26)
    application.router.add_post("/v1/chat/completions", endpoint.chat)
    application.router.add_get("/v1/models", endpoint.models)
    application.router.add_get("/health", endpoint.models)
    application.router.add_get("/metrics", endpoint.metrics)
    application.router.add_post("/control", endpoint.control)
    application.router.add_get("/stats", endpoint.stats)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    announce(f"http://127.0.0.1:{runner.addresses[0][1]}")
    await asyncio.Event().wait()


def main() -> None:
    """Serve until killed, or until the parent's pipe closes with `--with-parent`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", default="teacher")
    parser.add_argument("--with-parent", action="store_true")
    arguments = parser.parse_args()
    if arguments.with_parent:
        die_with_parent()
    asyncio.run(serve(arguments.port, arguments.model))


if __name__ == "__main__":
    main()
