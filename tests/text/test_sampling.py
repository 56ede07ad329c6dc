from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.text.examine import REASONS
from pipeline.text.records import RECORD, Scanned, ScanUnit, Table, joined
from pipeline.text.sampling import mixed, quotas, select
from pipeline.text.settings import PrepareSettings

OFFERED = st.lists(st.integers(0, 60), min_size=1, max_size=8)


@given(OFFERED, st.floats(0, 1))
def test_quotas_are_exact_and_within_one_of_the_share(offered: list[int], share: float) -> None:
    target = int(sum(offered) * share)
    given_out = quotas(offered, target)
    assert sum(given_out) == target
    for count, quota in zip(offered, given_out, strict=True):
        exact = target * count / sum(offered) if sum(offered) else 0
        assert quota <= count and abs(quota - exact) < 1


def test_quotas_follow_the_largest_remainders() -> None:
    assert quotas([5, 3, 2], 7) == [4, 2, 1]
    assert quotas([1, 1, 1], 2) == [1, 1, 0]
    assert quotas([6, 6, 2], 10) == [4, 4, 2] and quotas([6, 6, 2], 11) == [5, 5, 1]  # the Alabama paradox
    with pytest.raises(ValueError, match="more than"):
        quotas([1], 2)


def table(keys: list[int], sources: list[int], prompts: list[int] | None = None) -> Table:
    records = np.zeros(len(keys), RECORD)
    records["key_hi"], records["key_lo"] = keys, 7
    records["source"], records["line"] = sources, np.arange(len(keys)) + 1
    records["prompt"] = records["opening"] = keys if prompts is None else prompts
    return Table(records, np.zeros(len(keys), np.uint32), [f"s{n}" for n in range(5)], len(keys), 0)


def plan(**settings: Any) -> PrepareSettings:
    return PrepareSettings(source="file:///nowhere", **settings)


KEYS = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 4)), min_size=1, max_size=200)


@settings(max_examples=150, deadline=None)
@given(KEYS, st.integers(0, 3), st.data())
def test_a_smaller_sample_lies_in_a_larger_one_as_far_as_quotas_allow(
    rows: list[tuple[int, int]], seed: int, data: st.DataObject
) -> None:
    world = table(*map(list, zip(*rows, strict=True)))  # type: ignore[arg-type]
    most = len(select(world, plan(seed=seed)).rows)
    large = data.draw(st.integers(0, most)) or 1
    small = data.draw(st.integers(0, large)) or 1
    chosen = [set(select(world, plan(seed=seed, target_samples=size)).rows.tolist()) for size in (small, large)]
    assert [len(rows) for rows in chosen] == [small, large]
    for source in range(5):
        lesser, greater = ({row for row in rows if world.records["source"][row] == source} for rows in chosen)
        assert lesser <= greater or greater <= lesser
    offered = select(world, plan(seed=seed)).available.values()
    if all((large - small) * count >= most for count in offered):
        assert chosen[0] <= chosen[1]


def test_samples_of_rising_size_are_nested_at_the_scale_of_real_sources() -> None:
    rng = np.random.default_rng(5)
    sources = np.repeat(np.arange(5), [1470, 890, 860, 300, 40])
    world = table(rng.integers(0, 2**63, len(sources)).tolist(), sources.tolist())
    sizes = [128, 256, 640, 1280, 2560]
    samples = [set(select(world, plan(target_samples=size)).rows.tolist()) for size in sizes]
    for smaller, larger in pairwise(samples):
        assert smaller < larger


@settings(max_examples=60, deadline=None)
@given(KEYS, st.randoms(use_true_random=False))
def test_the_sample_does_not_depend_on_the_order_of_rows(rows: list[tuple[int, int]], random: Any) -> None:
    rows = [(key, key % 5) for key, _ in rows]  # one content, one source, as whichever duplicate is first
    shuffled = list(rows)
    random.shuffle(shuffled)
    found = []
    for order in (rows, shuffled):
        world = table(*map(list, zip(*order, strict=True)))  # type: ignore[arg-type]
        size = max(1, len({key for key, _ in rows}) // 2)
        kept = select(world, plan(target_samples=size)).rows
        found.append(sorted(world.records["key_hi"][kept].tolist()))
    assert found[0] == found[1]


def test_of_duplicates_the_first_stays_and_is_named() -> None:
    chosen = select(table([5, 9, 5, 5], [0, 0, 1, 2]), plan())
    assert chosen.rows.tolist() == [0, 1]
    assert chosen.rejects.tolist() == [2, 3] and chosen.first[[2, 3]].tolist() == [0, 0]
    assert select(table([5, 9, 5], [0, 0, 1]), plan(duplicates="none")).rows.tolist() == [0, 1, 2]


def test_caps_bound_what_a_source_offers() -> None:
    world = table(list(range(100)), [0] * 80 + [1] * 20)
    chosen = select(world, plan(target_samples=30, sources={"cap": {"s0": 20}}))
    assert chosen.available == {"s0": 20, "s1": 20}
    assert np.bincount(world.records["source"][chosen.rows]).tolist() == [15, 15]


def test_the_held_out_split_depends_on_content_and_shares_no_prompt() -> None:
    prompts = [n // 3 for n in range(300)]
    world = table(list(range(300)), [0] * 300, prompts)
    for heldout in ({"rows": 31}, {"fraction": 0.2}):
        chosen = select(world, plan(heldout=heldout))
        held, kept = ({prompts[row] for row in rows} for rows in (chosen.heldout, chosen.rows))
        assert held and kept and not held & kept
    assert len(select(world, plan(heldout={"rows": 31})).heldout) == 31
    few = select(world, plan(heldout={"rows": 31}, target_samples=10))
    assert few.heldout.tolist() == select(world, plan(heldout={"rows": 31})).heldout.tolist()


def test_a_conversation_that_opens_with_a_held_out_prompt_is_an_overlap() -> None:
    world = table([1, 2, 3, 4], [0] * 4, [10, 20, 30, 40])
    held = select(world, plan(heldout={"rows": 1})).heldout[0]
    other = (held + 1) % 4
    world.records["opening"][other] = world.records["prompt"][held]
    chosen = select(world, plan(heldout={"rows": 1}))
    assert chosen.heldout.tolist() == [held] and chosen.rejects.tolist() == [other]
    assert REASONS[chosen.code[other]] == "overlap"


def test_hashes_differ_by_seed_and_purpose() -> None:
    values = np.arange(1000, dtype=np.uint64)
    one, other, third = mixed(values, 1, 1), mixed(values, 2, 1), mixed(values, 1, 2)
    assert len({*one.tolist(), *other.tolist(), *third.tolist()}) == 3000


def test_joining_units_makes_line_and_source_numbers_global() -> None:
    def scanned(names: list[str], lines: int) -> Scanned:
        records = np.zeros(lines, RECORD)
        records["line"], records["source"] = np.arange(lines), np.arange(lines) % len(names)
        return Scanned(records, names, lines, 0)

    units = [ScanUnit(0, 0, 10), ScanUnit(0, 10, 20), ScanUnit(1, 0, -1)]
    whole = joined(units, [scanned(["b", "a"], 2), scanned(["c"], 3), scanned(["a"], 1)])
    assert whole.sources == ["a", "b", "c"]
    assert whole.records["line"].tolist() == [1, 2, 3, 4, 5, 1]
    assert whole.records["source"].tolist() == [1, 0, 2, 2, 2, 0]
    assert whole.file.tolist() == [0, 0, 0, 0, 0, 1]
