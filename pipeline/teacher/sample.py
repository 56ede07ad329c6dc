"""Which rows a teacher is asked about: a sample that a larger ratio contains, and its division into units.

Rows stand in strata of (single- or multi-turn, source). Within a stratum they are ordered by a hash of seed and id, and
row j of n gets the position (j + 1/2) / n; a kind's rows are taken in the order of positions (Webster's method), so any
number of them is proportional by source within one row, and a larger number takes the same rows and more.
"""

import base64
import heapq
from array import array
from collections.abc import Iterable, Iterator
from typing import Any

import xxhash
import zstandard

from pipeline.teacher.reading import Piece, Row, read_row
from pipeline.teacher.settings import AugmentSettings
from pipeline.text.chatml import is_multi_turn

INDEX_BITS = 40
SINGLE, MULTI, BROKEN = "single", "multi", "broken"


def make_plan(pieces: list[Piece], settings: AugmentSettings) -> dict[str, Any]:
    """The plan of an augment stage: the selected rows as a bitmap over all rows, the units, and the sample's figures.

    Broken lines are always selected, so that each ends in the rejects with its reason. Reads every row once.
    """
    strata: dict[tuple[str, str], list[int]] = {}
    total = 0
    for total, row in enumerate(all_rows(pieces), 1):
        kind = BROKEN if row.reason else MULTI if is_multi_turn(row.turns) else SINGLE
        rank = xxhash.xxh3_64_intdigest(row.id.encode(), seed=settings.seed)
        strata.setdefault((kind, row.source), []).append(rank << INDEX_BITS | (total - 1))
    selected, figures = _selected(strata, settings)
    return {
        "rows": total,
        "selected": _packed(selected, total),
        "units": _units(selected, settings.unit_rows),
        "sample": figures,
    }


def all_rows(pieces: Iterable[Piece]) -> Iterator[Row]:
    """Every row of every piece, in order."""
    for piece in pieces:
        for number, line in piece.lines():
            yield read_row(piece, number, line)


def unit_rows(
    pieces: list[Piece], plan: dict[str, Any], units: list[dict[str, Any]]
) -> Iterator[tuple[str, list[Row]]]:
    """(unit, its rows) for some units of the plan, in their order; pieces that hold none of them are not read."""
    wanted = _bits(plan)
    start = 0
    queue = iter(sorted(units, key=lambda unit: int(unit["first"])))
    unit = next(queue, None)
    rows: list[Row] = []
    for piece in pieces:
        if unit is None:
            return
        if piece.rows is not None and start + piece.rows <= unit["first"]:
            start += piece.rows
            continue
        count = 0
        for count, (number, line) in enumerate(piece.lines(), 1):
            index = start + count - 1
            if unit is None or not unit["first"] <= index or not wanted[index >> 3] >> (index & 7) & 1:
                continue
            rows.append(read_row(piece, number, line))
            if len(rows) == unit["rows"]:
                yield unit["name"], rows
                unit, rows = next(queue, None), []
        start += count


def _selected(
    strata: dict[tuple[str, str], list[int]], settings: AugmentSettings
) -> tuple["array[int]", dict[str, Any]]:
    """Indices of the selected rows in input order, and the figures that are reported."""
    available = {
        kind: sum(len(rows) for key, rows in strata.items() if key[0] == kind) for kind in (SINGLE, MULTI, BROKEN)
    }
    wanted, target = quotas(available[SINGLE], available[MULTI], settings.sample_ratio, settings.singleturn_ratio)
    chosen: list[int] = [
        rank & ((1 << INDEX_BITS) - 1) for (kind, _), rows in strata.items() if kind == BROKEN for rank in rows
    ]
    if settings.singleturn_ratio is None:
        chosen += _first(strata, (SINGLE, MULTI), wanted[SINGLE] + wanted[MULTI])
    else:
        chosen += _first(strata, (SINGLE,), wanted[SINGLE]) + _first(strata, (MULTI,), wanted[MULTI])
    figures = {
        "available": available,
        "wanted": wanted,
        "target": target,
        "shortfall": {kind: target[kind] - wanted[kind] for kind in (SINGLE, MULTI) if target[kind] > wanted[kind]},
    }
    return array("Q", sorted(chosen)), figures


def quotas(
    single: int, multi: int, ratio: float, singleturn_ratio: float | None
) -> tuple[dict[str, int], dict[str, int]]:
    """How many rows of each kind are taken, and how many the ratio asks for before a shortfall is filled.

    Example: quotas(100, 900, 0.5, 0.7) -> ({"single": 100, "multi": 400}, {"single": 350, "multi": 150})
    """
    count = max(1, int((single + multi) * ratio + 0.5)) if single + multi else 0
    share = singleturn_ratio if singleturn_ratio is not None else (single / (single + multi) if count else 0.0)
    target = int(count * share + 0.5)
    singles = min(single, max(target, count - multi))
    return {SINGLE: singles, MULTI: count - singles}, {SINGLE: target, MULTI: count - target}


def _first(strata: dict[tuple[str, str], list[int]], kinds: tuple[str, ...], count: int) -> list[int]:
    """The indices of the first `count` rows of some kinds in the order of positions."""
    streams = [_positions(sorted(rows)) for (kind, _), rows in sorted(strata.items()) if kind in kinds]
    ordered = heapq.merge(*streams)
    return [rank & ((1 << INDEX_BITS) - 1) for (_, rank), _ in zip(ordered, range(count), strict=False)]


def _positions(ranks: list[int]) -> Iterator[tuple[float, int]]:
    return (((place + 0.5) / len(ranks), rank) for place, rank in enumerate(ranks))


def _units(selected: "array[int]", rows: int) -> list[dict[str, Any]]:
    """Example: 5 selected rows in units of 2 -> rows 2, 2, 1; `first` is the index of the unit's first row."""
    starts = range(0, len(selected), rows)
    return [
        {"name": f"{number:05d}", "first": selected[start], "rows": min(rows, len(selected) - start)}
        for number, start in enumerate(starts)
    ]


def _packed(selected: "array[int]", total: int) -> str:
    bits = bytearray((total + 7) // 8)
    for index in selected:
        bits[index >> 3] |= 1 << (index & 7)
    return base64.b64encode(zstandard.ZstdCompressor().compress(bytes(bits))).decode()


def _bits(plan: dict[str, Any]) -> bytes:
    return zstandard.ZstdDecompressor().decompress(base64.b64decode(plan["selected"])) + b"\0"
