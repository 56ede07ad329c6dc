"""The client against a real HTTP endpoint: order, retries, terminal refusals, outages, keys, streams."""

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.engine.client import Client
from pipeline.engine.protocol import Answer, Endpoint, Failure, parse_metrics
from pipeline.engine.settings import ClientSettings
from pipeline.engine.stream import Delta, ThinkSplitter
from pipeline.errors import Trouble, UserError
from tests.servers.openai_endpoint import OpenAIServer, openai_server

QUICK = ClientSettings(
    concurrency=32, attempts=3, outage_seconds=20, wait_initial_seconds=0.02, wait_max_seconds=0.1,
    request_timeout_seconds=20,
)  # fmt: skip


@pytest.fixture(scope="module")
def _server() -> Iterator[OpenAIServer]:
    with openai_server() as server:
        yield server


@pytest.fixture
def server(_server: OpenAIServer) -> OpenAIServer:
    _server.control(reset=True)
    return _server


def body(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 64}


def ask_all(server: OpenAIServer, texts: list[str], settings: ClientSettings = QUICK) -> dict[str, Answer | Failure]:
    async def collect() -> dict[str, Answer | Failure]:
        async with Client(Endpoint(server.url, "teacher"), settings) as client:
            return {key: outcome async for key, outcome in client.ask((text, body(text)) for text in texts)}

    return asyncio.run(collect())


def test_every_request_is_answered_once_with_faults_in_between(server: OpenAIServer) -> None:
    server.control(fault_rate=0.4, latency_seconds=0.01)
    texts = [f"{number} 더하기 {number}? 재시도" for number in range(200)]
    outcomes = ask_all(server, texts)
    assert set(outcomes) == set(texts)
    for number, text in enumerate(texts):
        outcome = outcomes[text]
        assert isinstance(outcome, Answer)
        assert outcome.content.endswith(f"정답: {2 * number}")
    assert max(server.stats()["answered"].values()) == 1


def test_requests_are_in_flight_together_up_to_the_concurrency(server: OpenAIServer) -> None:
    server.control(latency_seconds=0.3)
    ask_all(server, [f"동시 {number}" for number in range(64)], QUICK.model_copy(update={"concurrency": 48}))
    assert server.stats()["most_in_flight"] == 48


def test_a_generator_is_read_only_a_little_ahead(server: OpenAIServer) -> None:
    drawn: list[int] = []

    def endless() -> Iterator[tuple[int, dict[str, Any]]]:
        number = 0
        while True:
            drawn.append(number)
            yield number, body(f"끝없이 {number}")
            number += 1

    async def take_ten() -> None:
        async with Client(Endpoint(server.url, "teacher"), QUICK.model_copy(update={"concurrency": 8})) as client:
            outcomes = client.ask(endless())
            for _ in range(10):
                await anext(outcomes)
            await outcomes.aclose()

    asyncio.run(take_ten())
    assert len(drawn) < 200


def test_refusals_are_terminal_and_named(server: OpenAIServer) -> None:
    before = server.stats()["received"]
    outcomes = ask_all(server, ["[over-length] 가", "[refused] 나"])
    assert outcomes["[over-length] 가"] == Failure(
        "over_length", "400: This model's maximum context length is 64 tokens, however you requested 90"
    )
    assert outcomes["[refused] 나"] == Failure("refused_400", "400: the prompt is refused")
    assert server.stats()["received"] == before + 2


def test_one_request_that_always_breaks_the_server_fails_alone(server: OpenAIServer) -> None:
    outcomes = ask_all(server, ["[poison] 하나"])
    assert outcomes["[poison] 하나"] == Failure("server_error", "500: internal error")


def test_an_outage_is_trouble_and_nothing_fails(server: OpenAIServer) -> None:
    server.control(down=True)
    with pytest.raises(Trouble, match=r"answered nothing for .* 503"):
        ask_all(server, [f"정지 {n}" for n in range(50)], QUICK.model_copy(update={"outage_seconds": 0.5}))


def test_an_endpoint_that_nobody_runs_is_trouble() -> None:
    with pytest.raises(Trouble, match="Connect"):
        ask_all(OpenAIServer("http://127.0.0.1:9"), ["안녕"], QUICK.model_copy(update={"outage_seconds": 0.3}))


def test_a_stop_drains_what_is_in_flight_and_sends_no_more(server: OpenAIServer) -> None:
    server.control(latency_seconds=0.2)

    async def collect() -> int:
        got: list[int] = []
        async with Client(Endpoint(server.url, "teacher"), QUICK.model_copy(update={"concurrency": 8})) as client:
            requests = ((n, body(f"멈춤 {n}")) for n in range(500))
            async for _ in client.ask(requests, lambda: len(got) >= 3, drain_seconds=5):
                got.append(1)
        return len(got)

    assert 3 <= asyncio.run(collect()) <= 3 + 2 * 8


def test_the_key_comes_from_the_environment_and_is_never_logged(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.control(key="s3cret-key")
    endpoint = Endpoint(server.url, "teacher", "TEACHER_KEY")

    async def names(endpoint: Endpoint) -> list[str]:
        async with Client(endpoint, QUICK) as client:
            return await client.models()

    with pytest.raises(UserError, match="TEACHER_KEY is empty"):
        asyncio.run(names(endpoint))
    monkeypatch.setenv("TEACHER_KEY", "s3cret-key")
    assert asyncio.run(names(endpoint)) == ["teacher"]
    monkeypatch.setenv("TEACHER_KEY", "other-key")
    with pytest.raises(UserError, match="refuses the API key"):
        asyncio.run(names(endpoint))
    assert "s3cret-key" not in caplog.text and "s3cret" not in repr(endpoint)


def test_waiting_names_the_models_that_are_served_instead(server: OpenAIServer) -> None:
    server.control(models=["another"])

    async def wait() -> None:
        async with Client(Endpoint(server.url, "teacher"), QUICK) as client:
            await client.wait_ready(5)

    with pytest.raises(UserError, match=r"serves \['another'\], not 'teacher'"):
        asyncio.run(wait())


@pytest.mark.parametrize("style", ["parser", "parser_old", "tags"])
def test_a_stream_gives_reasoning_apart_from_the_answer(server: OpenAIServer, style: str) -> None:
    server.control(style=style)

    async def collect() -> tuple[str, str]:
        reasoning, content, splitter = "", "", ThinkSplitter()
        async with Client(Endpoint(server.url, "teacher"), QUICK) as client:
            async for delta in client.stream(body("3 더하기 4?")):
                pieces = splitter.feed(delta.content) if delta.content else [delta]
                reasoning += "".join(piece.reasoning for piece in pieces)
                content += "".join(piece.content for piece in pieces)
        content += "".join(piece.content for piece in splitter.end())
        return reasoning.strip(), content.strip()

    assert asyncio.run(collect()) == ("1단계: 3 더하기 4? 살펴봅니다.\n2단계: 값은 7입니다.", "정답: 7")


def test_metrics_are_summed_over_labels(server: OpenAIServer) -> None:
    async def metrics() -> dict[str, float]:
        async with Client(Endpoint(server.url, "teacher"), QUICK) as client:
            return await client.metrics()

    found = asyncio.run(metrics())
    assert found["vllm:num_requests_running"] == 0.0 and found["vllm:num_requests_waiting"] == 0.0
    assert parse_metrics('a{x="1"} 2\na{x="2"} 3.5\nb 1\n# c 9\n') == {"a": 5.5, "b": 1.0}


def test_the_splitter_holds_back_tags_that_arrive_in_pieces() -> None:
    splitter = ThinkSplitter()
    out = [delta for text in ("<th", "ink>1단계: 3", " < 4</", "think>\n정", "답") for delta in splitter.feed(text)]
    assert out == [Delta(reasoning="1단계: 3"), Delta(reasoning=" < 4"), Delta(content="\n정"), Delta(content="답")]
    assert ThinkSplitter(inside=True).feed("생각</think>답") == [Delta(reasoning="생각"), Delta(content="답")]
    assert ThinkSplitter(inside=True).feed("<think>생각</think>답") == [Delta(reasoning="생각"), Delta(content="답")]
    held = ThinkSplitter()
    assert held.feed("a <") == [Delta(content="a ")] and held.end() == [Delta(content="<")]
