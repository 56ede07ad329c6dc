"""Rows for the report's reader: before and after augmentation side by side, and predictions that were wrong."""

import random
from dataclasses import dataclass
from typing import Any

import orjson

from pipeline.reporting.rows import Row, output_rows
from pipeline.store.objects import Store
from pipeline.store.runs import RunLock
from pipeline.text.thinking import split_thinking

LONGEST = 6000  # characters of a text on the page; longer ones are cut and say so
CORRECT = ("exact", "normalised", "final_answer", "passed")


@dataclass(frozen=True)
class Pair:
    """One row: its question, its answer before, and the teacher's reasoning and answer after."""

    stage: str
    source: str
    origin: str
    turns: tuple[tuple[str, str], ...]
    before: str
    reasoning: str
    after: str
    teacher: str


@dataclass(frozen=True)
class Prediction:
    """A wrong answer: what was asked and expected, the model's reasoning and answer, and which rules it broke."""

    stage: str
    group: str
    thinking: bool
    question: str
    expected: str
    reasoning: str
    answer: str
    broken: tuple[str, ...]


def pairs(store: Store, lock: RunLock, stage: str, validated: str | None, count: int, seed: int) -> list[Pair]:
    """`count` rows of an augment stage (of `validated`, the set that passed, where there is one), chosen by `seed`."""
    rows = output_rows(store, lock, validated or stage)
    if validated and not rows.total:
        rows = output_rows(store, lock, stage)
    return [_pair(stage, row) for row in rows.sample(count, seed) if isinstance(row.get("teacher"), dict)]


def _pair(stage: str, row: Row) -> Pair:
    messages, teacher = row["messages"], row["teacher"]
    thinking = split_thinking(messages[-1]["content"])
    turns = tuple(
        (message["role"], cut(message["content"])) for message in messages[:-1] if message["role"] != "system"
    )
    return Pair(
        stage,
        str(row.get("source", "")),
        str(row.get("origin", "")),
        turns,
        cut(str(teacher.get("replaced", ""))),
        cut(thinking.reasoning or ""),
        cut(thinking.answer),
        str(teacher.get("model", "")),
    )


def wrong_predictions(store: Store, lock: RunLock, stage: str, count: int, seed: int) -> list[Prediction]:
    """`count` wrong answers of an evaluate stage, those that break most rules first, ties by `seed`."""
    chance = random.Random(seed)
    found: list[tuple[int, float, Prediction]] = []
    for line in output_rows(store, lock, stage, "predictions").lines():
        row = orjson.loads(line)
        broken = broken_rules(row)
        if broken:
            found.append((-len(broken), chance.random(), _prediction(stage, row, broken)))
            found.sort(key=lambda item: item[:2])
            del found[count:]
    return [prediction for _, _, prediction in found]


def broken_rules(row: Row) -> tuple[str, ...]:
    """What is wrong with a prediction, most telling first; empty when it is right.

    An answer is right when it matches in any way; a question with rules is right when it passed.
    """
    scores = row.get("scores")
    flags: dict[str, Any] = scores if isinstance(scores, dict) else row
    checks = [flags[name] for name in CORRECT if isinstance(flags.get(name), (bool, int, float))]
    if not checks or any(checks):
        return ()
    wrong = [name for name in ("passed", "exact") if name in flags and not flags[name]][:1]
    return (*wrong, *(name for name in ("chinese", "truncated", "looping", "empty") if flags.get(name)))


def _prediction(stage: str, row: Row, broken: tuple[str, ...]) -> Prediction:
    asked = [message["content"] for message in row.get("messages", ()) if message.get("role") == "user"]
    return Prediction(
        stage,
        str(row.get("set", row.get("group", ""))),
        bool(row.get("thinking")),
        cut(asked[-1] if asked else ""),
        cut(str(row.get("expected") or "")),
        cut(str(row.get("reasoning") or "")),
        cut(str(row.get("answer") or "")),
        broken,
    )


def cut(text: str) -> str:
    """A text that fits the page. Example: 7,000 characters -> the first 6,000 and how many more there are."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … (+{len(text) - LONGEST:,})"
