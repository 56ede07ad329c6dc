"""Rows for the report's reader: before and after preparation and augmentation, predictions that were wrong.

An example is a plain document of texts; turns are (role, content) pairs. The page cuts what is too long.
"""

import random
from collections.abc import Callable, Iterator
from html import escape
from itertools import zip_longest
from typing import Any

import orjson

from pipeline.errors import HanforgeError
from pipeline.reporting.raw import raw_lines
from pipeline.reporting.rows import OutputRows, Row, split_origin
from pipeline.reporting.samples import printable
from pipeline.store.runs import RunLock
from pipeline.text.thinking import split_thinking

Example = dict[str, Any]
LONGEST = 6000  # characters of a text on the page
TEXT_BYTES = 700_000  # of all sampled texts together, as HTML: the page stays under about 1 MB
CORRECT = ("exact", "normalized", "final_answer", "passed")
FLAWS = ("chinese", "empty", "truncated", "failed")


def pairs(rows: OutputRows, count: int, seed: int) -> list[Example]:
    """`count` augmented rows chosen by `seed`: the question, the answer before, the reasoning and answer after."""
    return [_pair(row) for row in rows.sample(count, seed) if isinstance(row.get("teacher"), dict)]


def _pair(row: Row) -> Example:
    *turns, last = row["messages"]
    thinking = split_thinking(last["content"])
    return {
        **_named(row),
        "turns": [(turn["role"], turn["content"]) for turn in turns if turn["role"] != "system"],
        "before": str(row["teacher"].get("replaced", "")),
        "reasoning": thinking.reasoning or "",
        "after": thinking.answer,
        "teacher": str(row["teacher"].get("model", "")),
    }


def prepared(lock: RunLock, sample: list[Row], count: int) -> list[Example]:
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


def _prepared(row: Row, line: bytes) -> Example:
    turns = [(str(turn["role"]), str(turn["content"])) for turn in row["messages"]]
    return {**_named(row), "turns": turns, "raw": printable(line.decode("utf-8", "backslashreplace"))}


def _named(row: Row) -> Example:
    return {key: str(row.get(key, "")) for key in ("source", "origin", "id")}


def wrong_predictions(rows: OutputRows, count: int, seed: int) -> list[Example]:
    """Up to `count` wrong answers from each set that was asked: most broken rules first, ties by `seed`.

    A question that was answered wrongly with and without thinking is shown once.
    """
    chance = random.Random(seed)
    worst: dict[str, dict[str, tuple[int, float, Example]]] = {}
    for line in rows.lines():
        row = orjson.loads(line)
        broken = broken_rules(row)
        if not broken:
            continue
        found = worst.setdefault(str(row.get("collection", "")), {})
        candidate = (-len(broken), chance.random(), _prediction(row, broken))
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


def _prediction(row: Row, broken: tuple[str, ...]) -> Example:
    asked = [message["content"] for message in row.get("messages", ()) if message.get("role") == "user"]
    return {
        "group": str(row.get("collection", "")),
        "thinking": bool(row.get("thinking")),
        "question": asked[-1] if asked else "",
        **{key: str(row.get(key) or "") for key in ("expected", "reasoning", "answer")},
        "broken": broken,
    }


def shortened(examples: list[Example]) -> Callable[[str], str]:
    """A filter that cuts texts to 6,000 characters, and the longest of the examples' all to one length until they fit.

    Example: a text of 7,000 characters -> the first 6,000 and how many more there are
    """
    sizes = sorted(_bytes(said[:LONGEST]) for said in _texts(examples))
    room, left = TEXT_BYTES, len(sizes)
    limit = room
    for number in sizes:
        if number * left > room:
            limit = room // left
            break
        room, left = room - number, left - 1

    def shorten(said: str) -> str:
        kept = said[:LONGEST]
        size = _bytes(kept)
        if size > limit:
            kept = kept[: int(len(kept) * limit / size)]
        return kept if len(kept) == len(said) else f"{kept} … (+{len(said) - len(kept):,})"

    return shorten


def _texts(value: Any) -> Iterator[str]:
    """Every text in a document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _bytes(said: str) -> int:
    """Example: "<a>" -> 9, for the page writes &lt;a&gt;"""
    return len(escape(said).encode())
