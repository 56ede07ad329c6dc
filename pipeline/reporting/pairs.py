"""Rows for the report's reader: before and after preparation and augmentation, and predictions that were wrong."""

import random
from dataclasses import dataclass
from itertools import zip_longest

import orjson

from pipeline.errors import HanforgeError
from pipeline.reporting.raw import raw_lines
from pipeline.reporting.rows import Row, output_rows, split_origin
from pipeline.reporting.samples import printable
from pipeline.store.objects import Store
from pipeline.store.runs import RunLock
from pipeline.text.thinking import split_thinking

LONGEST = 6000  # characters of a text on the page; longer ones are cut and say so
CORRECT = ("exact", "normalized", "final_answer", "passed")
FLAWS = ("chinese", "empty", "truncated", "failed")


@dataclass(frozen=True)
class Pair:
    """One row: its question, its answer before, and the teacher's reasoning and answer after."""

    stage: str
    source: str
    origin: str
    id: str
    turns: tuple[tuple[str, str], ...]
    before: str
    reasoning: str
    after: str
    teacher: str


@dataclass(frozen=True)
class Prepared:
    """One row: its raw line, and the turns that preparation made of it."""

    source: str
    origin: str
    id: str
    raw: str
    turns: tuple[tuple[str, str], ...]


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
        str(row.get("id", "")),
        turns,
        cut(str(teacher.get("replaced", ""))),
        cut(thinking.reasoning or ""),
        cut(thinking.answer),
        str(teacher.get("model", "")),
    )


def prepared(lock: RunLock, sample: list[Row], count: int) -> list[Prepared]:
    """`count` of some prepared rows beside their raw lines: of each source in turn the one nearest its file's start.

    So the raw files are read only as far as they must be; rows whose file is gone are left out.
    """
    by_source: dict[str, list[tuple[int, int]]] = {}
    for place, row in enumerate(sample):
        line = split_origin(row.get("origin"))[1]
        by_source.setdefault(str(row.get("source")), []).append((line, place))
    turns = zip_longest(*(sorted(places) for _, places in sorted(by_source.items())))
    ordered = [sample[found[1]] for turn in turns for found in turn if found is not None]
    chosen = ordered[:count]
    try:
        raw = raw_lines(lock, [str(row.get("origin")) for row in chosen])
    except (HanforgeError, OSError):
        return []
    return [_prepared(row, raw[row["origin"]]) for row in chosen if row.get("origin") in raw]


def _prepared(row: Row, line: bytes) -> Prepared:
    turns = tuple((str(turn["role"]), cut(str(turn["content"]))) for turn in row["messages"])
    named = {key: str(row.get(key, "")) for key in ("source", "origin", "id")}
    return Prepared(**named, raw=printable(cut(line.decode("utf-8", "backslashreplace"))), turns=turns)


def wrong_predictions(store: Store, lock: RunLock, stage: str, count: int, seed: int) -> list[Prediction]:
    """Up to `count` wrong answers of an evaluate stage from each set: most broken rules first, ties by `seed`.

    A question that was answered wrongly with and without thinking is shown once.
    """
    chance = random.Random(seed)
    worst: dict[str, dict[str, tuple[int, float, Prediction]]] = {}
    for line in output_rows(store, lock, stage, "predictions").lines():
        row = orjson.loads(line)
        broken = broken_rules(row)
        if not broken:
            continue
        found = worst.setdefault(str(row.get("collection", "")), {})
        candidate = (-len(broken), chance.random(), _prediction(stage, row, broken))
        key = str(row.get("id"))
        found[key] = min(found.get(key, candidate), candidate, key=lambda item: item[:2])
        if len(found) > count:
            del found[max(found, key=lambda key: found[key][:2])]
    ranked = [sorted(found.values(), key=lambda item: item[:2]) for _, found in sorted(worst.items())]
    return [prediction for found in ranked for _, _, prediction in found]


def broken_rules(row: Row) -> tuple[str, ...]:
    """What is wrong with a prediction, in words; empty when it is right.

    A held-out row is right when its answer matches in any way, a question with rules when it passed.
    Example: {"marks": {"passed": False, "missed": ["must: 정지"], "empty": True}} -> ("must: 정지", "empty")
    """
    found = row.get("marks", {})
    judged = [found[name] for name in CORRECT if name in found]
    if not judged or any(judged):
        return ()
    missed = [str(rule) for rule in found.get("missed", ())] if "passed" in found else ["exact"]
    return (*missed, *(name for name in FLAWS if found.get(name) and name not in missed))


def _prediction(stage: str, row: Row, broken: tuple[str, ...]) -> Prediction:
    asked = [message["content"] for message in row.get("messages", ()) if message.get("role") == "user"]
    return Prediction(
        stage,
        str(row.get("collection", "")),
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
