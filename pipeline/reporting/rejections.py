"""Why rows were refused, with real examples: a seeded few of each of the most frequent reasons."""

import random
import re
from typing import Any

import orjson

from pipeline.reporting.examples import Example
from pipeline.reporting.rows import OutputRows, Row, rejected_line
from pipeline.reporting.samples import printable

EXAMPLES = 3
MOST_REASONS = 8
MOST_PARTS = 128
_REASON = re.compile(rb'^\{"reason":"([^"\\]*)"')


def rejections(rows: OutputRows, counts: dict[str, int], seed: int) -> list[Example]:
    """The eight most frequent of the reasons in `counts`, three examples each, from at most 128 parts of the rejects.

    Gives {reason, rows, examples: [{origin, source, detail, turns, line}]}; a refused row has turns, or its line when
    it is no conversation. Parts are visited in a seeded order until nothing is lacking, so examples of a frequent
    reason lie in one part.
    """
    top = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST_REASONS]
    lacking = {reason.encode(): min(EXAMPLES, count) for reason, count in top}
    found: dict[bytes, list[bytes]] = {reason: [] for reason in lacking}
    chance = random.Random(seed)
    parts = list(rows.spread(MOST_PARTS).parts)
    chance.shuffle(parts)
    for part in parts:
        here: dict[bytes, list[bytes]] = {}
        for line in OutputRows(rows.store, (part,), True).lines():
            reason = _reason(line)
            if lacking.get(reason):
                here.setdefault(reason, []).append(line)
        for reason, lines in here.items():
            found[reason] += chance.sample(lines, min(lacking[reason], len(lines)))
            lacking[reason] -= min(lacking[reason], len(lines))
        if not any(lacking.values()):
            break
    return [
        {"reason": reason, "rows": count, "examples": [_example(orjson.loads(line)) for line in found[reason.encode()]]}
        for reason, count in top
    ]


def _reason(line: bytes) -> bytes:
    match = _REASON.match(line)
    return match[1] if match else str(orjson.loads(line).get("reason")).encode()


def _example(row: Row) -> Example:
    named = {key: printable(str(row.get(key) or "")) for key in ("origin", "source", "detail")}
    line = rejected_line(row)
    turns = _turns(line)
    return {**named, "turns": turns, "line": "" if turns else printable(line)}


def _turns(line: str) -> list[tuple[str, str]]:
    """The turns of a line, system turns aside; none when it is no conversation."""
    try:
        value: Any = orjson.loads(line)
    except orjson.JSONDecodeError:
        return []
    messages = value.get("messages") if isinstance(value, dict) else None
    if not isinstance(messages, list) or not all(_is_turn(turn) for turn in messages):
        return []
    return [(printable(turn["role"]), printable(turn["content"])) for turn in messages if turn["role"] != "system"]


def _is_turn(turn: Row) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
