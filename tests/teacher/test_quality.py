"""What is measured on answers: counts that add up, shares for people, examples that are few and short."""

from typing import Any

import orjson

from jobs.live import describe
from pipeline.engine.protocol import Answer, Failure
from pipeline.store.status import StageStatus
from pipeline.teacher.compose import judge
from pipeline.teacher.quality import EXAMPLE_CHARACTERS, Quality, quality_from
from pipeline.teacher.reading import Piece, Row, read_row
from pipeline.teacher.settings import AugmentSettings
from tests.teacher.runs import prepared_row

STEPS = "<think>\n1단계: 더합니다.\n</think>\n\n정답: 8"
SAID = {
    "steps": Answer(STEPS, None, "stop", 10, 20),
    "paragraphs": Answer("정답: 8", "하나에 일곱을 더하면 여덟입니다.", "stop", 10, 20),
    "silent": Answer("정답: 8", None, "stop", 10, 20),
    "chinese": Answer("<think>\n1단계: 这个问题很简单，我们来计算一下。\n</think>\n\n答案是八", None, "stop", 10, 20),
    "cut": Answer(STEPS * 100, None, "length", 10, 20),
    "empty": Answer("", None, "stop", 10, 1),
    "failure": Failure("over_length", "400: too long"),
}


def row(number: int = 1) -> Row:
    return read_row(Piece("part", "x", 1, lambda: iter(())), number, orjson.dumps(prepared_row(number, "maths")))


def measured(*names: str, **changes: Any) -> Quality:
    settings = AugmentSettings(source="x", teacher={"served_model_name": "t"}, **changes)
    quality = Quality()
    for name in names:
        quality.note(row(), SAID[name], judge(row(), SAID[name], settings))
    return quality


def counts(name: str) -> list[str]:
    found = measured(name).plain()
    return [fact for fact in ("answers", "failed", "without_row", "tagged", "stepped", "chinese") if found[fact]]


def test_each_outcome_is_counted_by_what_the_teacher_said() -> None:
    assert {name: counts(name) for name in SAID} == {
        "steps": ["answers", "tagged", "stepped"],
        "paragraphs": ["answers", "tagged"],
        "silent": ["answers", "without_row"],
        "chinese": ["answers", "tagged", "stepped", "chinese"],
        "cut": ["answers", "without_row", "stepped"],
        "empty": ["answers", "without_row"],
        "failure": ["failed", "without_row"],
    }


def test_counts_add_up_and_come_back_from_json() -> None:
    one, other = measured("steps", "silent", "failure"), measured("chinese", "cut")
    together = measured("steps", "silent", "failure", "chinese", "cut")
    assert (one + other).plain() == together.plain()
    assert quality_from(orjson.loads(orjson.dumps(together.plain()))) == together
    assert together.plain()["reasons"] == {"no_reasoning": 1, "over_length": 1, "truncated": 1}


def test_examples_are_three_of_a_fault_and_short() -> None:
    found = measured(*["silent"] * 5, "cut").plain()["examples"]
    assert len(found["untagged"]) == len(found["any"]) == 3
    assert found["untagged"][0] == {
        "origin": "maths.jsonl:1", "reason": "no_reasoning", "question": "1 더하기 7은?", "answer": "정답: 8",
    }  # fmt: skip
    long = measured("cut").plain()["examples"]["without_row"][0]["answer"]
    assert len(long) == EXAMPLE_CHARACTERS + 3 and long.endswith("...")


def test_the_note_stands_in_the_live_table() -> None:
    quality = measured("steps", "steps", "silent", "failure")
    note = quality.in_words()
    assert note.startswith("tags 66.7%, Chinese 0.0%, ")
    assert note.endswith(" characters, rejected 50.0% (no_reasoning 1, over_length 1)")
    assert Quality().in_words() == "" and quality.shares()["tag_rate"] == 2 / 3
    progress = {"done": 4, "total": 10, "eta_seconds": 90, "note": note}
    assert describe(StageStatus("augment", "augment", "f", "running", progress=progress)) == (
        f"4 of 10, 1:30 left, {note}"
    )
