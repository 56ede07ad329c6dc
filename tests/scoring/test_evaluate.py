"""Evaluate as a stage: with transformers on a tiny model, and over HTTP as it asks a vLLM."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from pipeline.engine.protocol import Answer, Failure
from pipeline.errors import UserError
from pipeline.recipe.references import StageReference
from pipeline.scoring.ask import read_verdict
from pipeline.scoring.template import thinking_switch
from pipeline.store.objects import Store
from pipeline.store.runs import RunLock
from pipeline.store.stage import Stage
from tests.engine.tiny import tiny_qwen3
from tests.merging.stages import locked, run
from tests.servers.openai_endpoint import OpenAIServer, openai_server


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qwen3(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    with openai_server("--model", "model") as running:
        yield running


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANFORGE_CACHE", str(tmp_path / "cache"))


def write_rows(path: Path, rows: list[tuple[str, str]]) -> str:
    lines = []
    for number, (question, answer) in enumerate(rows):
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        lines.append(orjson.dumps({"messages": messages, "source": f"s{number % 2}", "id": f"{number:032x}"}))
    path.write_bytes(b"\n".join(lines) + b"\n")
    return str(path)


def sums(path: Path, count: int) -> str:
    return write_rows(path, [(f"{number} 더하기 {number + 1}?", str(2 * number + 1)) for number in range(count)])


def evaluated(store: Store, stages: dict[str, dict[str, Any]], name: str = "scores") -> tuple[RunLock, dict[str, Any]]:
    """The run and the measurements of an evaluate stage that ran."""
    lock = locked(store, stages)
    run(Stage(store, lock, name))
    manifest = lock.directory(store, name).manifest()
    assert manifest is not None and manifest.counts.balanced()
    return lock, manifest.measurements


def predictions(store: Store, lock: RunLock, name: str = "scores") -> list[dict[str, Any]]:
    return list(Stage(store, lock, name).rows(StageReference(stage=name, output="predictions")))


def tiny(model: Path, data: str, **settings: Any) -> dict[str, dict[str, Any]]:
    common = {"kind": "evaluate", "model": str(model), "backend": "transformers", "max_new_tokens": 6}
    return {"scores": {**common, "data": data, "batch_size": 4, **settings}}


def test_transformers_answers_are_the_same_for_any_units_and_order(tmp_path: Path, model: Path) -> None:
    data = sums(tmp_path / "rows.jsonl", 10)
    store = Store(f"file://{tmp_path / 'store'}")
    lock, measured = evaluated(store, tiny(model, data))
    rows = predictions(store, lock)
    assert [(row["thinking"], row["id"][-2:]) for row in rows[:2]] == [(False, "00"), (False, "01")]
    assert len(rows) == 20 and set(measured["averages"]["data"]) == {"off", "on"}
    assert set(measured["averages"]["data"]["off"]["sources"]) == {"s0", "s1"}
    assert measured["scores"]["data.off.exact"] == 0
    again = Store(f"file://{tmp_path / 'again'}")
    other, _ = evaluated(again, tiny(model, data))
    first, second = lock.directory(store, "scores").manifest(), other.directory(again, "scores").manifest()
    assert first is not None and second is not None
    assert first.content("predictions") == second.content("predictions")
    assert first.content("scores") == second.content("scores")


def test_a_batch_answers_as_one_row_alone_does(tmp_path: Path, model: Path) -> None:
    """Left padding changes nothing: rows of unlike length, batched and alone."""
    data = write_rows(tmp_path / "rows.jsonl", [("가" * (3 * number + 1), "네") for number in range(4)])
    texts = []
    for size in (4, 1):
        store = Store(f"file://{tmp_path / f'store{size}'}")
        lock, _ = evaluated(store, tiny(model, data, batch_size=size, thinking="off"))
        texts.append([row["text"] for row in predictions(store, lock)])
    assert texts[0] == texts[1] and any(texts[0])


def test_attention_that_is_not_installed_gives_way(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = tiny(model, sums(tmp_path / "rows.jsonl", 2), thinking="off", attention="flash_attention_2")
    _, measured = evaluated(Store(f"file://{tmp_path / 'store'}"), settings)
    assert "data.off.exact" in measured["scores"] and "using sdpa" in caplog.text


def over_http(server: OpenAIServer, model: Path, data: str, **settings: Any) -> dict[str, dict[str, Any]]:
    common = {"kind": "evaluate", "model": str(model), "endpoint": server.url, "client": {"concurrency": 8}}
    return {"scores": {**common, "data": data, **settings}}


def test_answers_over_http_are_marked_by_the_users_criteria(tmp_path: Path, model: Path, server: OpenAIServer) -> None:
    server.control(style="tags", fault_rate=0.2)
    rows = [(f"{number} 더하기 {number + 1}?", str(2 * number + 1)) for number in range(20)]
    rows += [("[wrong] 3 더하기 4?", "7"), ("[over-length] 1 더하기 1?", "2"), ("[length] 5 더하기 5?", "10")]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    store = Store(f"file://{tmp_path / 'store'}")
    lock, measured = evaluated(store, over_http(server, model, data, thinking="on", questions="agv", unit_rows=8))
    scores = measured["scores"]
    assert scores["data.on.final_answer"] == pytest.approx(21 / 23, abs=0.05)
    assert scores["data.on.failed"] == pytest.approx(1 / 23, abs=1e-6)
    assert scores["data.on.tags"] >= 21 / 23 and scores["data.on.mean_steps"] > 1.5
    assert scores["data.on.exact"] == 0
    assert 0 <= scores["questions.on.passed"] < 1
    assert {entry["thinking"] for entry in measured["missed_questions"]} == {True}
    manifest = lock.directory(store, "scores").manifest()
    assert manifest is not None and manifest.counts.failed == {"over_length": 1}
    assert [row["id"] for row in predictions(store, lock)][:23] == [f"{number:032x}" for number in range(23)]
    server.control(fault_rate=0.0)


def test_a_baseline_stands_beside_the_scores(tmp_path: Path, model: Path, server: OpenAIServer) -> None:
    server.control(style="tags")
    data = sums(tmp_path / "rows.jsonl", 6)
    stages = {
        "before": tiny(model, data, thinking="on")["scores"],
        "after": over_http(server, model, data, thinking="on", baseline={"stage": "before"})["scores"],
    }
    store = Store(f"file://{tmp_path / 'store'}")
    lock = locked(store, stages)
    for name in stages:
        run(Stage(store, lock, name))
    manifest = lock.directory(store, "after").manifest()
    assert manifest is not None
    table = {entry["metric"]: entry for entry in manifest.measurements["compared"]}
    assert table["data.on.final_answer"]["before"] == 0 and table["data.on.final_answer"]["after"] == 1
    assert manifest.measurements["before"]["data.on.final_answer"] == 0


def test_what_is_done_is_not_asked_again(tmp_path: Path, model: Path, server: OpenAIServer) -> None:
    server.control(style="tags")
    data = sums(tmp_path / "rows.jsonl", 12)
    store = Store(f"file://{tmp_path / 'store'}")
    lock = locked(store, over_http(server, model, data, thinking="off", unit_rows=4))
    stage = Stage(store, lock, "scores")
    update = stage.progress.update

    def stop_at_eight(done: int | None = None, **values: Any) -> None:
        update(done=done, **values)
        if done == 8:
            stage.stop.request()

    stage.progress.update = stop_at_eight  # type: ignore[method-assign]
    with pytest.raises(Exception, match="stopped"):
        run(stage)
    assert lock.directory(store, "scores").done_names() == {"data-off-00000", "data-off-00001"}
    before = server.stats()["received"]
    run(Stage(store, lock, "scores", 1, 2))
    assert server.stats()["received"] - before == 4
    assert lock.directory(store, "scores").manifest() is not None


def test_a_judge_marks_grammar(tmp_path: Path, model: Path, server: OpenAIServer) -> None:
    server.control(style="tags")
    prompt = "{answer}\n[silent] {question}"
    judge = {"served_model_name": "model", "endpoint": server.url, "prompt": prompt, "limit": 2}
    _, measured = evaluated(
        Store(f"file://{tmp_path / 'store'}"),
        over_http(server, model, sums(tmp_path / "rows.jsonl", 3), thinking="off", judge=judge),
    )
    assert "data.off.mean_grammar" not in measured["scores"]  # this judge writes no verdict that can be read
    answer = Answer('<think>음</think>{"grammar": 4, "naturalness": 5}', None, "stop")
    assert read_verdict(answer) == {"grammar": 4, "naturalness": 5}
    assert read_verdict(Answer('{"grammar": 9, "naturalness": 5}', None, "stop")) == {}
    assert read_verdict(Failure("timeout", "")) == {}


def test_held_out_rows_in_the_training_rows_end_it(tmp_path: Path, model: Path, server: OpenAIServer) -> None:
    data = sums(tmp_path / "rows.jsonl", 4)
    training = write_rows(tmp_path / "train.jsonl", [("3 더하기  4?", "<think>가</think>7"), ("9 더하기 9?", "18")])
    lock = locked(Store(f"file://{tmp_path / 'store'}"), over_http(server, model, data, training_data=[training]))
    with pytest.raises(UserError, match="1 of 4 held-out rows stand in the training rows"):
        run(Stage(Store(f"file://{tmp_path / 'store'}"), lock, "scores"))


def test_a_template_without_the_switch_is_an_error_when_it_would_be_switched(tmp_path: Path, model: Path) -> None:
    switch = thinking_switch(model)
    assert switch.switches and not switch.opened
    plain = tiny_qwen3(tmp_path / "plain")
    (plain / "chat_template.jinja").write_text(
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    )
    store = Store(f"file://{tmp_path / 'store'}")
    lock = locked(store, tiny(plain, sums(tmp_path / "rows.jsonl", 2)))
    with pytest.raises(UserError, match="no switch enable_thinking"):
        run(Stage(store, lock, "scores"))
    (plain / "chat_template.jinja").write_text("{{ raise_exception('no') }}")
    with pytest.raises(UserError, match="does not render"):
        thinking_switch(plain)
