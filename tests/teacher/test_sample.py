"""The sample: nested, proportional, with the asked share of single-turn rows where there are enough."""

from collections import Counter
from typing import Any

import orjson
import pytest

from pipeline.teacher.reading import Piece
from pipeline.teacher.sample import all_rows, make_plan, quotas, unit_rows
from pipeline.teacher.settings import AugmentSettings
from pipeline.text.chatml import is_multi_turn
from tests.teacher.runs import prepared_rows


def settings(ratio: float, **changes: Any) -> AugmentSettings:
    return AugmentSettings(source="x", teacher={"served_model_name": "t"}, sample_ratio=ratio, **changes)


def in_pieces(lines: list[bytes], count: int) -> list[Piece]:
    size = -(-len(lines) // count)
    parts = [lines[start : start + size] for start in range(0, len(lines), size)]
    return [Piece(f"{n}", "x", len(part), lambda part=part: enumerate(part, 1)) for n, part in enumerate(parts)]  # type: ignore[misc]


def chosen(pieces: list[Piece], plan: dict[str, Any]) -> list[Any]:
    return [row for _, rows in unit_rows(pieces, plan, plan["units"]) for row in rows]


@pytest.mark.parametrize("share", [0.7, 0.2, None])
def test_a_larger_ratio_holds_the_smaller_ones_rows(share: float | None) -> None:
    pieces = in_pieces(prepared_rows(500), 3)
    seen: set[str] = set()
    for ratio in (0.01, 0.05, 0.3, 0.31, 0.8, 1.0):
        rows = chosen(pieces, make_plan(pieces, settings(ratio, singleturn_ratio=share)))
        ids = {row.id for row in rows}
        assert len(ids) == len(rows) == int(500 * ratio + 0.5)
        assert seen <= ids
        seen = ids


def test_single_turns_have_their_share_and_each_kind_is_proportional_by_source() -> None:
    pieces = in_pieces(prepared_rows(1000), 1)
    kinds = Counter((is_multi_turn(row.turns), row.source) for row in all_rows(pieces))
    totals = Counter(is_multi_turn(row.turns) for row in all_rows(pieces))
    got = Counter((is_multi_turn(row.turns), row.source) for row in chosen(pieces, make_plan(pieces, settings(0.1))))
    assert sum(count for (multi, _), count in got.items() if not multi) == 70
    for (multi, source), count in kinds.items():
        exact = count / totals[multi] * (30 if multi else 70)
        assert abs(got[multi, source] - exact) < 1


@pytest.mark.parametrize(
    ("single", "multi", "ratio", "expected", "target"),
    [
        (700, 300, 1.0, (700, 300), (700, 300)),
        (100, 900, 0.5, (100, 400), (350, 150)),
        (900, 10, 0.5, (445, 10), (319, 136)),
        (3, 0, 0.05, (1, 0), (1, 0)),
        (0, 0, 0.5, (0, 0), (0, 0)),
    ],
)
def test_a_shortfall_is_filled_with_the_other_kind(
    single: int, multi: int, ratio: float, expected: tuple[int, int], target: tuple[int, int]
) -> None:
    wanted, asked = quotas(single, multi, ratio, 0.7)
    assert (tuple(wanted.values()), tuple(asked.values())) == (expected, target)


def test_units_give_the_same_rows_whichever_are_read_and_however_they_lie() -> None:
    lines = prepared_rows(200)
    plan = make_plan(in_pieces(lines, 1), settings(0.5, unit_rows=16))
    whole = dict(unit_rows(in_pieces(lines, 1), plan, plan["units"]))
    assert sum(map(len, whole.values())) == 100 and [len(rows) for rows in whole.values()] == [16] * 6 + [4]
    for parts in (1, 4, 7):
        for unit in plan["units"]:
            assert dict(unit_rows(in_pieces(lines, parts), plan, [unit])) == {unit["name"]: whole[unit["name"]]}


def test_the_sample_follows_the_seed_and_not_the_order_of_rows() -> None:
    lines = prepared_rows(300)

    def ids(lines: list[bytes], seed: int) -> set[str]:
        pieces = in_pieces(lines, 1)
        return {row.id for row in chosen(pieces, make_plan(pieces, settings(0.2, seed=seed)))}

    assert ids(lines, 1) == ids(lines[::-1], 1) != ids(lines, 2)


def test_broken_lines_are_always_taken_so_that_they_end_in_the_rejects() -> None:
    lines = [*prepared_rows(50), b"{broken", orjson.dumps({"messages": []})]
    pieces = in_pieces(lines, 1)
    rows = chosen(pieces, make_plan(pieces, settings(0.1)))
    assert [row.reason for row in rows if row.reason] == ["broken_json", "messages_empty"] and len(rows) == 7
