"""No request is paid for twice: counted at the endpoint, across ratios, thresholds, limits, and a changed prompt."""

from typing import Any

import orjson
import pytest

from pipeline.store.objects import Store
from pipeline.store.stage import Stage
from tests.servers.openai_endpoint import OpenAIServer
from tests.teacher.runs import (
    asked,
    augment_settings,
    augmented,
    output,
    prepared_row,
    prepared_rows,
    run,
    with_prepared,
)

ROWS = prepared_rows(200)
QUICK = augment_settings()["client"]
VALIDATE = {"kind": "validate", "source": {"stage": "augment"}, "limits": {"min_pass_rate": None, "min_rows": None}}


def test_a_trials_rows_are_part_of_the_whole(store: Store, server: OpenAIServer) -> None:
    before = asked(server)
    trial = augmented(store, ROWS, sample_ratio=0.05)
    assert asked(server) - before == 10
    middle = augmented(store, ROWS, sample_ratio=0.5, unit_rows=50)
    assert asked(server) - before == 100
    full = augmented(store, ROWS, sample_ratio=1.0)
    assert asked(server) - before == 200
    ids = [{row["id"] for row in output(stage)} for stage in (trial, middle, full)]
    assert ids[0] < ids[1] < ids[2]


@pytest.mark.parametrize(
    "changes",
    [
        {"singleturn_ratio": None},
        {"singleturn_ratio": 0.2},
        {"keep_only_matching_answers": True},
        {"unnumbered": "reject"},
        {"unit_rows": 7, "compression": "gzip"},
        {"sample_ratio": 0.3, "seed": 7},
        {"client": {**QUICK, "concurrency": 3, "outage_seconds": 9}, "flush_rows": 5},
        {"stop_if": {"tag_rate_below": 0.5, "after": 50}, "takeover_seconds": 9},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_settings_that_do_not_reach_the_teacher_ask_nothing(
    store: Store, server: OpenAIServer, changes: dict[str, Any]
) -> None:
    augmented(store, ROWS)
    before = asked(server)
    assert augmented(store, ROWS, **changes).directory.manifest() is not None
    assert asked(server) == before


@pytest.mark.parametrize("checks", [{"min_steps": 3}, {"chinese": {"max_share": 0.9}}, {"chinese": None}])
def test_changed_checks_of_validate_ask_nothing(store: Store, server: OpenAIServer, checks: dict[str, Any]) -> None:
    lock = with_prepared(store, ROWS, {"augment": augment_settings(), "validate": VALIDATE})
    run(Stage(store, lock, "augment"))
    before = asked(server)
    other = with_prepared(store, ROWS, {"augment": augment_settings(), "validate": {**VALIDATE, "checks": checks}})
    assert other.stages["augment"] == lock.stages["augment"] and other.stages["validate"] != lock.stages["validate"]
    assert Stage(store, other, "augment").directory.manifest() is not None and asked(server) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "{question} 단계별로 (참고: {answer})"},
        {"system_prompt": "짧게 답하세요."},
        {"sampling": {"temperature": 0.1}},
        {"teacher": {"served_model_name": "teacher", "engine": {"quantization": "fp8"}}},
        {"rerun": 1},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_what_reaches_the_teacher_asks_again(store: Store, server: OpenAIServer, changes: dict[str, Any]) -> None:
    rows = ROWS[:40]
    augmented(store, rows)
    before = asked(server)
    augmented(store, rows, **changes)
    assert asked(server) == before + 40


def test_a_failure_is_asked_again_once_the_context_is_longer(store: Store, server: OpenAIServer) -> None:
    rows = prepared_rows(10, marks={3: "[over-length]"})
    augmented(store, rows)
    before = asked(server)
    augmented(store, rows, keep_only_matching_answers=True)
    assert asked(server) == before
    augmented(store, rows, teacher={"served_model_name": "teacher", "engine": {"max_model_len": 8192}})
    assert asked(server) == before + 1


def test_a_prompt_that_several_rows_share_is_asked_once(store: Store, server: OpenAIServer) -> None:
    server.control(latency_seconds=0.05)
    rows = []
    for number in range(30):
        row = prepared_row(number % 10, f"source{number // 10}")
        row["messages"][0]["content"] = f"당신은 {number}번 조수입니다."
        row["id"] = f"{number:032x}"
        rows.append(orjson.dumps(row))
    before = asked(server)
    stage = augmented(store, rows, system_prompt="한국어로 답하세요.", unit_rows=4)
    assert asked(server) - before == 10
    found = output(stage)
    assert len(found) == len({row["id"] for row in found}) == 30 and len({r["teacher"]["request"] for r in found}) == 10
