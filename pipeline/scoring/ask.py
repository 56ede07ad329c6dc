"""Answers by a vLLM server: an endpoint that serves the model already, or a child of the stage's own.

Also the optional judge, over the same client.
"""

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import orjson

from pipeline.engine.client import Client
from pipeline.engine.protocol import Answer, Endpoint, Failure
from pipeline.engine.server import serving
from pipeline.engine.settings import ClientSettings
from pipeline.engine.special import FILES, special_beside_tags
from pipeline.errors import Trouble, UserError
from pipeline.scoring.asked import Asked
from pipeline.scoring.metrics import Reply, tagged
from pipeline.scoring.settings import EvaluateSettings, JudgeSettings
from pipeline.store.stage import Stage
from pipeline.text.thinking import split_thinking

LOOK_SECONDS = 5.0


@contextmanager
def model_endpoint(stage: Stage) -> Iterator[tuple[Endpoint, Callable[[], None]]]:
    """The endpoint that answers for the model, and a check that raises when its process has died."""
    settings: EvaluateSettings = stage.settings
    url = settings.url()
    if url is not None:
        special = special_beside_tags(stage.model_path(settings.model, FILES))  # no weights are fetched for it
        endpoint = Endpoint(url, settings.served_model_name, special_tokens=special)
        if settings.endpoint is None:  # a sidecar, which loads its model only now
            asyncio.run(_started(endpoint, settings, stage))
        yield endpoint, lambda: None
        return
    engine = settings.engine.at(stage.execution.precision)
    folder = stage.model_path(settings.model)
    with serving(
        folder,
        engine,
        served_name=settings.served_model_name,
        log=stage.scratch() / "vllm.log",
        stop_requested=lambda: stage.stop.requested,
    ) as server:
        yield server.endpoint(folder), server.check


async def _started(endpoint: Endpoint, settings: EvaluateSettings, stage: Stage) -> None:
    async with Client(endpoint, settings.client) as client:
        await client.wait_ready(settings.engine.startup_timeout_seconds, lambda: stage.stop.requested)


def check_endpoint(endpoint: Endpoint, client: ClientSettings, what: str) -> None:
    """UserError when the endpoint is not there or serves other models."""

    async def look() -> None:
        async with Client(endpoint, client) as open_client:
            await open_client.wait_ready(LOOK_SECONDS)

    try:
        asyncio.run(look())
    except Trouble as error:
        raise UserError(f"{what}: {error.what}", error.remedy) from error


def ask_model(
    stage: Stage,
    endpoint: Endpoint,
    asked: Sequence[Asked],
    thinking: bool,
    opened_in_prompt: bool,
    check: Callable[[], None],
) -> list[Reply]:
    """One reply for each item, in order; all in flight at once as far as the client allows. Raises on a stop."""
    settings: EvaluateSettings = stage.settings
    common = {
        "max_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "seed": settings.seed,
        "chat_template_kwargs": {"enable_thinking": thinking},
    }
    bodies = ((position, {"messages": item.messages, **common}) for position, item in enumerate(asked))
    outcomes = _outcomes(stage, endpoint, bodies, check)
    replies = []
    for position in range(len(asked)):
        outcome = outcomes[position]
        if isinstance(outcome, Failure):
            replies.append(Reply("", "failed", failed=outcome.reason))
            continue
        text = tagged(outcome.content, outcome.reasoning, thinking, opened_in_prompt)
        replies.append(Reply(text, outcome.finish_reason, outcome.completion_tokens))
    return replies


def _outcomes(
    stage: Stage, endpoint: Endpoint, bodies: Iterator[tuple[int, dict[str, Any]]], check: Callable[[], None]
) -> dict[int, Answer | Failure]:
    """Every body's answer or failure, by its number. Raises on a stop."""

    async def ask() -> dict[int, Answer | Failure]:
        async with Client(endpoint, stage.settings.client, check) as client:
            return {number: outcome async for number, outcome in client.ask(bodies, lambda: stage.stop.requested)}

    outcomes = asyncio.run(ask())
    stage.stop.raise_if_requested()
    return outcomes


def judge_endpoint(judge: JudgeSettings) -> Endpoint:
    """Where the judge answers; UserError when nobody says."""
    url = judge.url()
    if url is None:
        raise UserError(
            f"nobody says where the judge {judge.served_model_name!r} answers",
            "Set judge.endpoint or HANFORGE_JUDGE_ENDPOINT, or leave `judge` out.",
        )
    return Endpoint(url, judge.served_model_name, judge.api_key_env)


def judged(stage: Stage, asked: Sequence[Asked], replies: Sequence[Reply]) -> list[dict[str, int]]:
    """Marks from 1 to 5 for grammar and naturalness of each answer; empty where the judge gave none."""
    judge: JudgeSettings = stage.settings.judge
    sampling = {"max_tokens": judge.max_tokens, "temperature": judge.temperature}
    bodies = []
    for position, (item, reply) in enumerate(zip(asked, replies, strict=True)):
        answer = split_thinking(reply.text).answer
        if answer:
            content = judge.prompt.format(question=item.messages[-1]["content"], answer=answer)
            bodies.append((position, {"messages": [{"role": "user", "content": content}], **sampling}))
    outcomes = _outcomes(stage, judge_endpoint(judge), iter(bodies), lambda: None)
    return [read_verdict(outcomes.get(position)) for position in range(len(asked))]


def read_verdict(outcome: Answer | Failure | None) -> dict[str, int]:
    """The judge's marks; empty when it failed, or wrote no JSON object with whole marks from 1 to 5.

    Example: 'Sure: {"grammar": 4, "naturalness": 5}' -> {"grammar": 4, "naturalness": 5}
    """
    if not isinstance(outcome, Answer):
        return {}
    for found in reversed(re.findall(r"\{[^{}]*\}", split_thinking(outcome.content).answer)):
        try:
            values = orjson.loads(found)
        except orjson.JSONDecodeError:
            continue
        marks = {name: values.get(name) for name in ("grammar", "naturalness")}
        if all(isinstance(mark, int) and 1 <= mark <= 5 for mark in marks.values()):
            return {name: int(mark) for name, mark in marks.items()}
    return {}
