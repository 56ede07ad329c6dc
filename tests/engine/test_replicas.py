"""Several endpoints, and what one of them may do: die, come back as another, refuse for a while, be slow, be full."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from pipeline.engine import replicas
from pipeline.engine.client import Client
from pipeline.engine.protocol import Answer, Endpoint, Failure
from pipeline.engine.settings import ClientSettings
from pipeline.errors import Trouble, UserError
from tests.servers.openai_endpoint import OpenAIServer, openai_server

QUICK = ClientSettings(
    concurrency=32, attempts=3, outage_seconds=20, wait_initial_seconds=0.02, wait_max_seconds=0.1,
    request_timeout_seconds=20,
)  # fmt: skip


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[OpenAIServer, OpenAIServer]]:
    with openai_server() as one, openai_server() as other:
        yield one, other


@pytest.fixture
def pair(
    servers: tuple[OpenAIServer, OpenAIServer], monkeypatch: pytest.MonkeyPatch
) -> tuple[OpenAIServer, OpenAIServer]:
    for server in servers:
        server.control(reset=True)
    monkeypatch.setattr(replicas, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(replicas, "RISING_LOOK_SECONDS", 0.1)
    return servers


@pytest.fixture
def server(pair: tuple[OpenAIServer, OpenAIServer]) -> OpenAIServer:
    return pair[0]


def body(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 64}


def endpoint(server: OpenAIServer) -> Endpoint:
    return Endpoint(server.url, "teacher")


def ask_all(
    endpoints: list[Endpoint],
    texts: list[str],
    settings: ClientSettings = QUICK,
    after: Callable[[int, Client], None] = lambda count, client: None,
) -> dict[str, Answer | Failure]:
    """The outcomes in the order in which they came; `after` is called with their count after each."""

    async def collect() -> dict[str, Answer | Failure]:
        found: dict[str, Answer | Failure] = {}
        async with Client(endpoints, settings) as client:
            async for key, outcome in client.ask((text, body(text)) for text in texts):
                found[key] = outcome
                await asyncio.to_thread(after, len(found), client)
        return found

    return asyncio.run(collect())


def received(server: OpenAIServer) -> int:
    return int(server.stats()["received"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_faster_of_two_endpoints_gets_more(pair: tuple[OpenAIServer, OpenAIServer]) -> None:
    pair[0].control(latency_seconds=0.02)
    pair[1].control(latency_seconds=0.4)
    before = [received(server) for server in pair]
    found = ask_all([endpoint(server) for server in pair], [f"둘 중에 {n}" for n in range(200)])
    assert len(found) == 200 and all(isinstance(outcome, Answer) for outcome in found.values())
    fast, slow = (received(server) - count for server, count in zip(pair, before, strict=True))
    assert fast + slow == 200 and fast > 2 * slow > 0


@pytest.mark.parametrize("second_name", ["teacher", "another"])
def test_one_of_two_dies_and_comes_back(server: OpenAIServer, second_name: str) -> None:
    """As itself it gets requests again; under another name none."""
    server.control(latency_seconds=0.05)
    port = free_port()
    with ExitStack() as first_life, ExitStack() as second_life:
        mortal = first_life.enter_context(openai_server("--port", str(port)))
        mortal.control(latency_seconds=0.05)

        def turn(count: int, client: Client) -> None:
            if count == 60:
                first_life.close()
            if count == 150:
                second_life.enter_context(openai_server("--port", str(port), "--model", second_name))

        texts = [f"죽었다 살아나기 {second_name} {n}" for n in range(1200)]
        found = ask_all([endpoint(server), endpoint(mortal)], texts, after=turn)
        assert set(found) == set(texts)
        assert all(isinstance(outcome, Answer) for outcome in found.values())
        second = mortal.stats()
        assert (len(second["answered"]) > 0) == (second_name == "teacher")


def test_a_lone_endpoint_that_serves_another_model_is_an_outage_and_no_row_fails(server: OpenAIServer) -> None:
    server.control(latency_seconds=0.02)
    outcomes: list[Answer | Failure] = []
    at_rename: list[int] = []

    def rename(count: int, client: Client) -> None:
        if count == 20:
            server.control(models=["another"])
            at_rename.append(received(server) - before)

    async def collect() -> None:
        settings = QUICK.model_copy(update={"outage_seconds": 0.5, "concurrency": 8})
        async with Client(endpoint(server), settings) as client:
            async for _, outcome in client.ask((n, body(f"이름이 바뀐다 {n}")) for n in range(500)):
                outcomes.append(outcome)
                await asyncio.to_thread(rename, len(outcomes), client)

    before = received(server)
    with pytest.raises(Trouble, match=r"answered nothing for .*serves \['another'\], not 'teacher'"):
        asyncio.run(collect())
    assert 20 <= len(outcomes) <= at_rename[0] < 500 and all(isinstance(outcome, Answer) for outcome in outcomes)
    assert received(server) - before - at_rename[0] < 80


def test_requests_wait_while_a_lone_endpoint_is_away(server: OpenAIServer) -> None:
    server.control(latency_seconds=0.02)

    def turn(count: int, client: Client) -> None:
        if count == 20:
            server.control(models=["another"])
        if count == 28:  # what was in flight
            server.control(models=["teacher"])

    texts = [f"잠시 다른 이름 {n}" for n in range(100)]
    found = ask_all([endpoint(server)], texts, QUICK.model_copy(update={"concurrency": 8}), after=turn)
    assert all(isinstance(outcome, Answer) for outcome in found.values()) and len(found) == 100


@pytest.mark.parametrize("retry_after", ["1", "date:2"])
def test_a_rate_limit_is_waited_out_and_uses_up_no_attempt(server: OpenAIServer, retry_after: str) -> None:
    server.control(latency_seconds=0.02, most_in_flight=16, retry_after=retry_after)
    texts = [f"천천히 {retry_after} {n}" for n in range(120)]
    before = received(server)
    found = ask_all([endpoint(server)], texts, QUICK.model_copy(update={"concurrency": 64, "attempts": 1}))
    assert all(isinstance(outcome, Answer) for outcome in found.values()) and len(found) == 120
    assert received(server) - before < 120 + 150


def test_a_rate_limited_endpoint_leaves_the_work_to_the_other(pair: tuple[OpenAIServer, OpenAIServer]) -> None:
    pair[0].control(most_in_flight=0, retry_after="3600")
    pair[1].control(latency_seconds=0.02)
    found = ask_all([endpoint(server) for server in pair], [f"다른 쪽이 {n}" for n in range(100)])
    assert all(isinstance(outcome, Answer) for outcome in found.values()) and len(found) == 100


def test_a_slow_answer_holds_nobody_up(server: OpenAIServer) -> None:
    server.control(latency_seconds=0.1)
    texts = ["[slow] 느린 것", *(f"빠른 것 {n}" for n in range(100))]
    found = ask_all([endpoint(server)], texts, QUICK.model_copy(update={"concurrency": 16}))
    assert list(found)[-1] == texts[0] and list(found).index(texts[0]) == 100


@pytest.mark.parametrize("slots", [20, 120])
def test_the_level_finds_the_servers_slots(server: OpenAIServer, slots: int) -> None:
    server.control(latency_seconds=0.3, slots=slots)
    in_flight: list[int] = []
    texts = [f"자리 {slots} {n}" for n in range(slots * 10)]
    settings = QUICK.model_copy(update={"concurrency": "auto"})
    ask_all([endpoint(server)], texts, settings, after=lambda count, client: in_flight.append(client.in_flight))
    settled = sorted(in_flight[slots * 6 : slots * 8])
    assert slots * 0.9 <= settled[len(settled) // 2] <= slots * 1.6


def test_preemptions_make_it_back_off(server: OpenAIServer) -> None:
    server.control(latency_seconds=0.2, preempts_above=24)
    in_flight: list[int] = []
    settings = QUICK.model_copy(update={"concurrency": "auto"})
    texts = [f"밀려난다 {n}" for n in range(700)]
    ask_all([endpoint(server)], texts, settings, after=lambda count, client: in_flight.append(client.in_flight))
    assert max(in_flight[:100]) >= 64
    settled = sorted(in_flight[400:600])
    assert 12 <= settled[len(settled) // 2] <= 36


def test_an_endpoint_without_metrics_is_filled_up_to_the_bound(server: OpenAIServer) -> None:
    server.control(latency_seconds=0.1, metrics=False)
    before = server.stats()["most_in_flight"]
    ask_all([endpoint(server)], [f"말이 없다 {n}" for n in range(600)], QUICK.model_copy(update={"concurrency": 150}))
    assert server.stats()["most_in_flight"] >= min(150, before)


def test_one_of_two_may_be_missing_at_the_start_but_not_serve_another_model(
    pair: tuple[OpenAIServer, OpenAIServer],
) -> None:
    async def ready(endpoints: list[Endpoint]) -> Answer | Failure:
        async with Client(endpoints, QUICK) as client:
            await client.wait_ready(5)
            return await client.chat(body("안녕"))

    nobody = Endpoint("http://127.0.0.1:9/v1", "teacher")
    assert isinstance(asyncio.run(ready([nobody, endpoint(pair[0])])), Answer)
    pair[1].control(models=["another"])
    with pytest.raises(UserError, match=r"serves \['another'\], not 'teacher'"):
        asyncio.run(ready([endpoint(server) for server in pair]))


def test_a_stop_ends_a_pass_whose_endpoints_are_all_away(server: OpenAIServer) -> None:
    server.control(down=True)
    looks: list[int] = []

    async def collect() -> int:
        async with Client(endpoint(server), QUICK) as client:
            requests = ((n, body(f"아무도 없다 {n}")) for n in range(500))
            batches = client.batches(requests, lambda: len(looks) > 5, drain_seconds=0.5, poll_seconds=0.05)
            return sum([looks.append(1) or len(batch) async for batch in batches])  # type: ignore[func-returns-value]

    assert asyncio.run(collect()) == 0


def test_special_think_tags_are_asked_for_and_the_end_of_turn_is_taken_off(server: OpenAIServer) -> None:
    server.control(special_tags=True)
    plain = endpoint(server)
    special = Endpoint(server.url, "teacher", special_tokens=("<|im_start|>", "<|im_end|>"))

    async def both() -> tuple[Answer | Failure, Answer | Failure]:
        async with Client(plain, QUICK) as one, Client(special, QUICK) as other:
            return await one.chat(body("3 더하기 4?")), await other.chat(body("3 더하기 4?"))

    lost, kept = asyncio.run(both())
    assert isinstance(lost, Answer) and "think>" not in lost.content
    assert isinstance(kept, Answer)
    assert kept.content == "<think>\n1단계: 3 더하기 4? 살펴봅니다.\n2단계: 값은 7입니다.\n</think>\n\n정답: 7"
    sent = server.stats()["bodies"][-2:]
    assert ["skip_special_tokens" in one for one in sent] == [False, True]
