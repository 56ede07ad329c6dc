"""The stop rule: a bad prompt ends the stage with exit code 3, again and again from stored answers."""

from typing import Any

import pytest
from pydantic import ValidationError

from jobs.stage import run_stage
from pipeline.errors import GateRefused
from pipeline.store.objects import Store
from pipeline.store.stage import Stage
from pipeline.store.status import chain_status
from pipeline.teacher.stopping import StopRule, broken
from tests.servers.openai_endpoint import OpenAIServer
from tests.teacher.runs import asked, augment_settings, augmented, prepared_rows, run, with_prepared

SILENT = dict.fromkeys(range(0, 400, 2), "[silent]")
RULE = {"tag_rate_below": 0.8, "after": 60}
SLOWLY = {**augment_settings()["client"], "concurrency": 8}


def stage_of(store: Store, marks: dict[int, str], **changes: Any) -> Stage:
    settings = augment_settings(client=SLOWLY, **changes)
    lock = with_prepared(store, prepared_rows(400, marks=marks), {"augment": settings})
    return Stage(store, lock, "augment")


def refusal(stage: Stage) -> str:
    with pytest.raises(GateRefused) as caught:
        run(stage)
    return str(caught.value)


@pytest.mark.parametrize("unit_rows", [16, 1024])
def test_a_bad_prompt_ends_the_stage_and_later_starts_ask_nothing(
    store: Store, server: OpenAIServer, unit_rows: int
) -> None:
    server.control(latency_seconds=0.02)
    before = asked(server)
    first = refusal(stage_of(store, SILENT, stop_if=RULE, unit_rows=unit_rows))
    paid = asked(server) - before
    assert 60 <= paid < 300
    assert "tag_rate_below 0.8 after 60: 0." in first and "answers have reasoning and an answer" in first
    assert f"Paid so far: {paid} requests, " in first and "every answer is kept in answers/teacher-" in first
    assert first.count("(no_reasoning): ") == 3 and "[silent] -> 정답: " in first
    again = refusal(stage_of(store, SILENT, stop_if=RULE, unit_rows=unit_rows))
    assert asked(server) - before == paid and f"Paid so far: {paid} requests, " in again
    looser = {"tag_rate_below": 0.2, "after": 60}
    stage = stage_of(store, SILENT, stop_if=looser, unit_rows=unit_rows)
    run(stage)
    assert asked(server) - before == 400
    manifest = stage.directory.manifest()
    assert manifest is not None and manifest.counts.plain()["rejected"] == {"no_reasoning": 200}
    quality = manifest.measurements["quality"]
    assert (quality["outcomes"], quality["tagged"], quality["reasons"]) == (400, 200, {"no_reasoning": 200})


def test_what_a_trial_said_refuses_the_whole_without_asking(store: Store, server: OpenAIServer) -> None:
    augmented(store, prepared_rows(400, marks=SILENT), sample_ratio=0.25)
    before = asked(server)
    assert "Paid so far: 100 requests" in refusal(stage_of(store, SILENT, stop_if=RULE))
    assert asked(server) == before


def test_another_worker_refuses_what_one_has_seen(store: Store, server: OpenAIServer) -> None:
    server.control(latency_seconds=0.02)
    refusal(stage_of(store, SILENT, stop_if=RULE, unit_rows=16))
    paid = asked(server)
    lock = stage_of(store, SILENT, stop_if=RULE, unit_rows=16).lock
    assert "tag_rate_below" in refusal(Stage(store, lock, "augment", index=1, of=2))
    assert asked(server) == paid


def test_answers_to_another_prompt_do_not_count(store: Store, server: OpenAIServer) -> None:
    augmented(store, prepared_rows(100, marks=SILENT))
    run(stage_of(store, SILENT, stop_if=RULE, prompt="{question} 왜냐하면? {answer}", sample_ratio=0.5))


def test_the_process_ends_with_3_and_says_why(store: Store, server: OpenAIServer) -> None:
    server.control(latency_seconds=0.02)
    stage = stage_of(store, SILENT, stop_if=RULE)
    assert run_stage(stage) == 3
    status = {entry.name: entry for entry in chain_status(store, stage.lock)}["augment"]
    assert status.state == "refused" and "tag_rate_below 0.8 after 60" in status.message
    assert status.progress["quality"]["tag_rate"] < 0.8 and status.progress["note"].startswith("tags ")


def test_a_kept_rule_changes_no_byte(store: Store, server: OpenAIServer) -> None:
    plain = augmented(store, prepared_rows(100)).directory.manifest()
    ruled = augmented(store, prepared_rows(100), stop_if={"tag_rate_below": 0.9, "after": 10}).directory.manifest()
    assert plain is not None and ruled is not None and plain.raw == ruled.raw


MEASURED = {
    "outcomes": 100, "answers": 90, "failed": 10, "without_row": 30, "tagged": 70, "stepped": 60, "chinese": 9,
    "characters": 9000,
}  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"tag_rate_below": 0.8}, "0.778 (70 of 90 answers have reasoning"),
        ({"step_rate_below": 0.7}, "0.667 (60 of 90"),
        ({"chinese_rate_above": 0.05}, "0.100 (9 of 90 answers have Chinese)"),
        ({"rejected_above": 0.25}, "0.300 (30 of 100 outcomes give no row)"),
        ({"failed_above": 0.05}, "0.100 (10 of 100 requests were not answered)"),
        ({"mean_chars_below": 200}, "mean_chars_below 200 after 100: 100 (9,000 characters in 90 answers)"),
        ({"mean_chars_above": 50}, "100 (9,000 characters"),
    ],
)
def test_each_limit_says_what_was_measured(rule: dict[str, float], words: str) -> None:
    found = broken(StopRule(after=100, **rule), MEASURED)  # type: ignore[arg-type]
    assert list(found) == list(rule) and words in found[next(iter(rule))]
    assert broken(StopRule(after=101, **rule), MEASURED) == {}  # type: ignore[arg-type]


def test_a_rule_that_is_kept_says_nothing() -> None:
    assert broken(StopRule(after=1, tag_rate_below=0.7, chinese_rate_above=0.1, mean_chars_below=100), MEASURED) == {}


@pytest.mark.parametrize(("rule", "words"), [({"after": 5}, "no limit"), ({"tag_rate_under": 1}, "tag_rate_under")])
def test_a_rule_that_would_do_nothing_is_refused(rule: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        StopRule(**rule)
