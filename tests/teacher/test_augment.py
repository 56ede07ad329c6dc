"""augment on a real store with a real HTTP endpoint whose answers follow from the request."""

import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Stopped, Trouble, UserError
from pipeline.store.objects import Store
from pipeline.store.runs import RunLock
from pipeline.store.stage import Stage
from pipeline.store.stop import StopFlag
from tests.engine.tiny import bare_checkpoint
from tests.servers.openai_endpoint import OpenAIServer
from tests.teacher.runs import asked, augment_settings, augmented, output, prepared_rows, run, with_prepared


def content(stage: Stage) -> tuple[str, str]:
    manifest = stage.directory.manifest()
    assert manifest is not None
    return manifest.content("rows"), manifest.content("rejects")


def test_each_row_ends_in_one_state_and_keeps_its_provenance(store: Store, server: OpenAIServer) -> None:
    marks = {3: "[over-length]", 5: "[length]", 7: "[silent]", 11: "[refused]", 13: "[poison]"}
    stage = augmented(store, prepared_rows(100, marks=marks))
    manifest = stage.directory.manifest()
    assert manifest is not None
    assert manifest.counts.plain() == {
        "planned": 100, "ok": 95, "rejected": {"no_reasoning": 1, "truncated": 1},
        "failed": {"over_length": 1, "refused_400": 1, "server_error": 1},
    }  # fmt: skip
    rows = {int(row["origin"].split(":")[1]): row for row in output(stage)}
    row = rows[20]
    question = next(m["content"] for m in reversed(row["messages"]) if m["role"] == "user")
    assert question == "20 더하기 7은?"
    assert row["messages"][-1]["content"] == (
        "<think>\n1단계: 20 더하기 7은? (참고: 정답:  살펴봅니다.\n2단계: 값은 27입니다.\n</think>\n\n정답: 27"
    )
    assert row["teacher"]["replaced"] == "정답: 27" and row["teacher"]["identity"] == "endpoint:teacher"
    assert len(row["teacher"]["request"]) == 32 and row["source"] in ("maths", "chat", "wiki")
    assert [reject["reason"] for reject in output(stage, "rejects")] == [
        "over_length", "truncated", "no_reasoning", "refused_400", "server_error",
    ]  # fmt: skip


@pytest.mark.parametrize("style", ["parser", "parser_old", "open_in_prompt", "steps"])
def test_all_ways_to_reason_are_recomposed_into_one(store: Store, server: OpenAIServer, style: str) -> None:
    server.control(style=style)
    row = output(augmented(store, prepared_rows(3)))[0]
    answer = "7" if style == "steps" else "정답: 7"
    assert row["messages"][-1]["content"].startswith("<think>\n1단계: ")
    assert row["messages"][-1]["content"].endswith(f"2단계: 값은 7입니다.\n</think>\n\n{answer}")


def test_the_request_carries_the_turns_and_the_sampling(store: Store, server: OpenAIServer) -> None:
    augmented(store, prepared_rows(30), sampling={"temperature": 0.5, "max_tokens": 99})
    body = max(server.stats()["bodies"][-30:], key=lambda item: len(item["messages"]))
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "user"]
    assert body["messages"][-1]["content"].endswith(")") and "(참고: 정답: " in body["messages"][-1]["content"]
    assert (body["temperature"], body["max_tokens"], body["seed"]) == (0.5, 99, 42)
    assert body["chat_template_kwargs"] == {"enable_thinking": True} and body["model"] == "teacher"


def test_only_matching_answers_are_kept_when_asked(store: Store, server: OpenAIServer) -> None:
    stage = augmented(store, prepared_rows(20, marks={4: "[wrong]"}), keep_only_matching_answers=True)
    manifest = stage.directory.manifest()
    assert manifest is not None and manifest.counts.rejected == {"answer_mismatch": 1}


def test_faults_change_no_byte(tmp_path: Path, server: OpenAIServer) -> None:
    rows = prepared_rows(120)
    calm = augmented(Store(f"file://{tmp_path / 'calm'}"), rows)
    server.control(fault_rate=0.5)
    shaken = augmented(Store(f"file://{tmp_path / 'shaken'}"), rows)
    assert content(calm) == content(shaken)


def test_answers_that_are_there_need_no_teacher(store: Store, server: OpenAIServer) -> None:
    rows = prepared_rows(60)
    augmented(store, rows)
    server.control(down=True)
    stage = augmented(store, rows, sample_ratio=0.5)
    manifest = stage.directory.manifest()
    assert manifest is not None and manifest.counts.ok == 30


def test_a_stop_stores_what_came_and_the_next_process_goes_on(store: Store, server: OpenAIServer) -> None:
    server.control(latency_seconds=0.05)
    rows = prepared_rows(150)
    lock = with_prepared(store, rows, {"augment": augment_settings()})
    before = asked(server)

    class StopAfterAWhile(StopFlag):
        """Turns on once the endpoint has answered some requests."""

        @property
        def requested(self) -> bool:
            return asked(server) - before > 60

    with pytest.raises(Stopped):
        run(Stage(store, lock, "augment", stop=StopAfterAWhile()))
    paid = asked(server) - before
    assert 60 < paid < 150
    run(Stage(store, lock, "augment"))
    assert asked(server) - before == 150


def test_an_outage_ends_as_trouble_and_keeps_what_was_answered(store: Store, server: OpenAIServer) -> None:
    import threading
    import time

    server.control(latency_seconds=0.05)
    rows = prepared_rows(300)
    quick = augment_settings()["client"] | {"outage_seconds": 0.5, "concurrency": 8}
    lock = with_prepared(store, rows, {"augment": augment_settings(client=quick)})
    before = asked(server)

    def cut_off() -> None:
        while asked(server) - before < 50:
            time.sleep(0.01)
        server.control(down=True)

    thread = threading.Thread(target=cut_off)
    thread.start()
    with pytest.raises(Trouble, match="answered nothing"):
        run(Stage(store, lock, "augment"))
    thread.join()
    server.control(down=False)
    stage = Stage(store, lock, "augment")
    run(stage)
    manifest = stage.directory.manifest()
    assert manifest is not None and manifest.counts.ok == 300


def test_two_workers_share_the_units_and_one_takes_over(store: Store, server: OpenAIServer) -> None:
    rows = prepared_rows(120)
    lock = with_prepared(store, rows, {"augment": augment_settings(takeover_seconds=0.3)})
    alone = Stage(store, lock, "augment", index=1, of=2)
    run(alone)
    manifest = alone.directory.manifest()
    assert manifest is not None and manifest.counts.ok == 120


def test_the_number_of_workers_changes_no_byte(tmp_path: Path, server: OpenAIServer) -> None:
    rows = prepared_rows(120)
    one = augmented(Store(f"file://{tmp_path / 'one'}"), rows)
    store = Store(f"file://{tmp_path / 'two'}")
    lock = with_prepared(store, rows, {"augment": augment_settings(takeover_seconds=0.3)})
    stage = Stage(store, lock, "augment", index=2, of=3)
    run(stage)
    assert content(one) == content(stage)


def test_preflight_names_what_the_endpoint_serves(store: Store, server: OpenAIServer) -> None:
    server.control(models=["another"])
    lock = with_prepared(store, prepared_rows(5), {"augment": augment_settings()})
    with pytest.raises(UserError, match=r"serves \['another'\], not 'teacher'"):
        run(Stage(store, lock, "augment"))
    assert not Stage(store, lock, "augment").directory.done_names()


def test_preflight_refuses_an_endpoint_that_is_not_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HANFORGE_TEACHER_ENDPOINT", raising=False)
    monkeypatch.setattr("pipeline.teacher.endpoint.LOOK_SECONDS", 0.2)
    teacher = {"served_model_name": "teacher", "endpoint": "http://127.0.0.1:9/v1"}
    lock = with_prepared(store, prepared_rows(5), {"augment": augment_settings(teacher=teacher)})
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9"):
        run(Stage(store, lock, "augment"))


def test_where_the_teacher_runs_is_not_fingerprinted_but_which_one_is(store: Store) -> None:
    def fingerprint(**changes: Any) -> str:
        lock: RunLock = with_prepared(store, prepared_rows(5), {"augment": augment_settings(**changes)})
        return lock.stages["augment"].fingerprint

    base = fingerprint()
    assert fingerprint(teacher={"served_model_name": "teacher", "endpoint": "http://elsewhere:8000/v1"}) == base
    assert fingerprint(client={"concurrency": 3}, flush_rows=7) == base
    assert fingerprint(teacher={"served_model_name": "other"}) != base


def test_a_set_without_a_single_row_is_refused(store: Store, server: OpenAIServer) -> None:
    rows = prepared_rows(4, marks=dict.fromkeys(range(4), "[silent]"))
    lock = with_prepared(store, rows, {"augment": augment_settings()})
    for _ in range(2):
        with pytest.raises(UserError, match="none of 4 rows came through: no_reasoning 4"):
            run(Stage(store, lock, "augment"))


def test_a_stage_starts_and_stops_its_own_teacher(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scripted(model: Path, settings: Any, *, served_name: str, host: str, port: int) -> list[str]:
        return [sys.executable, "-m", "tests.servers.openai_endpoint", "--port", str(port), "--model", served_name]

    monkeypatch.delenv("HANFORGE_TEACHER_ENDPOINT", raising=False)
    monkeypatch.setattr("pipeline.engine.server.command", scripted)
    monkeypatch.setenv("HANFORGE_CACHE", str(tmp_path / "cache"))
    model = bare_checkpoint(tmp_path / "teacher")
    stage = augmented(store, prepared_rows(30), teacher={"model": str(model)})
    manifest = stage.directory.manifest()
    assert manifest is not None and manifest.counts.ok == 30
    assert output(stage)[0]["teacher"]["identity"] == stage.identity(str(model))
    monkeypatch.setattr("pipeline.engine.server.command", lambda *_, **__: ["/nothing/to/start"])
    again = augmented(store, prepared_rows(30), teacher={"model": str(model)}, sample_ratio=0.5)
    assert again.directory.manifest() is not None


def test_a_teacher_that_vllm_cannot_load_is_refused_before_any_start(store: Store, tmp_path: Path) -> None:
    model = bare_checkpoint(tmp_path / "teacher", architectures=["NoSuchModel"])
    lock = with_prepared(store, prepared_rows(4), {"augment": augment_settings(teacher={"model": str(model)})})
    with pytest.raises(UserError, match="NoSuchModel"):
        run(Stage(store, lock, "augment"))
