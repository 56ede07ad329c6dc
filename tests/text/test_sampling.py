import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.text import partitions
from pipeline.text.examine import REASONS
from pipeline.text.partitions import mixed
from pipeline.text.records import RECORD, Records, Scanned, ScanUnit
from pipeline.text.sampling import HELDOUT, NOT_SAMPLED, SAMPLED, Selection, quotas
from pipeline.text.sampling import select as select_into
from pipeline.text.settings import PrepareSettings
from pipeline.text.table import tabulate

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


def table(keys: list[int], sources: list[int], prompts: list[int] | None = None) -> Records:
    records = np.zeros(len(keys), RECORD)
    records["key_hi"], records["key_lo"] = keys, 7
    records["source"], records["line"] = sources, np.arange(len(keys))
    records["prompt"] = records["opening"] = keys if prompts is None else prompts
    return records


class Chosen:
    """A selection's rows by fate."""

    def __init__(self, selection: Selection) -> None:
        self.fate, self.available, self.repeats = selection.fate, selection.available, selection.repeats
        self.rows, self.heldout = selection.positions(SAMPLED), selection.positions(HELDOUT)
        self.rejects = np.flatnonzero((selection.fate > 0) & (selection.fate < NOT_SAMPLED))


def select(records: Records, settings: PrepareSettings) -> Chosen:
    with tempfile.TemporaryDirectory() as folder:
        scanned = Scanned(records, [f"s{n}" for n in range(5)], len(records), 0)
        whole = tabulate(Path(folder) / "records", [(ScanUnit(0, 0, -1), [scanned])])
        (Path(folder) / "parts").mkdir()
        return Chosen(select_into(whole, settings, Path(folder) / "parts"))


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
        lesser, greater = ({row for row in rows if world["source"][row] == source} for rows in chosen)
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
        found.append(sorted(world["key_hi"][kept].tolist()))
    assert found[0] == found[1]


def test_of_duplicates_the_first_stays_and_is_named() -> None:
    chosen = select(table([5, 9, 5, 5], [0, 0, 1, 2]), plan())
    assert chosen.rows.tolist() == [0, 1]
    assert chosen.rejects.tolist() == [2, 3] and chosen.repeats.position.tolist() == [2, 3]
    assert chosen.repeats.first.tolist() == [0, 0] and chosen.repeats.first_line.tolist() == [1, 1]
    assert select(table([5, 9, 5], [0, 0, 1]), plan(duplicates="none")).rows.tolist() == [0, 1, 2]


def test_caps_bound_what_a_source_offers() -> None:
    world = table(list(range(100)), [0] * 80 + [1] * 20)
    chosen = select(world, plan(target_samples=30, sources={"cap": {"s0": 20}}))
    assert chosen.available == {"s0": 20, "s1": 20}
    assert np.bincount(world["source"][chosen.rows]).tolist() == [15, 15]


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
    world["opening"][other] = world["prompt"][held]
    chosen = select(world, plan(heldout={"rows": 1}))
    assert chosen.heldout.tolist() == [held] and chosen.rejects.tolist() == [other]
    assert REASONS[chosen.fate[other]] == "overlap"


def test_hashes_differ_by_seed_and_purpose() -> None:
    values = np.arange(1000, dtype=np.uint64)
    one, other, third = mixed(values, 1, 1), mixed(values, 2, 1), mixed(values, 1, 2)
    assert len({*one.tolist(), *other.tolist(), *third.tolist()}) == 3000


def scanned(names: list[str], lines: int, first: int = 0, before: int = 0) -> Scanned:
    records = np.zeros(lines, RECORD)
    records["line"], records["source"] = np.arange(lines) + first, np.arange(lines) % len(names)
    return Scanned(records, names, lines, 0, before)


def test_a_table_has_global_line_and_source_numbers(tmp_path: Path) -> None:
    units = [ScanUnit(0, 0, 10), ScanUnit(0, 10, 20), ScanUnit(1, 0, -1)]
    parts = [[scanned(["b", "a"], 2)], [scanned(["c"], 3)], [scanned(["a"], 1), scanned(["a", "b"], 2, 1, 1)]]
    whole = tabulate(tmp_path / "records", zip(units, parts, strict=True))
    batches = list(whole.batches())
    assert whole.sources == ["a", "b", "c"] and (whole.rows, whole.lines) == (8, 8)
    assert [line for batch in batches for line in batch.records["line"].tolist()] == [1, 2, 3, 4, 5, 1, 2, 3]
    assert [source for batch in batches for source in batch.records["source"].tolist()] == [1, 0, 2, 2, 2, 0, 0, 1]
    assert whole.files(np.arange(8)).tolist() == [0, 0, 0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    "more", [{}, {"heldout": {"rows": 40}}, {"heldout": {"fraction": 0.1}}, {"duplicates": "none"}]
)
def test_parts_of_any_size_give_the_same_choice(monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]) -> None:
    rng = np.random.default_rng(3)
    keys = (rng.integers(0, 700, 2000).astype(np.uint64) * np.uint64(2**54 + 12345)).tolist()
    world = table(keys, rng.integers(0, 5, 2000).tolist(), rng.integers(0, 300, 2000).tolist())
    world["code"] = rng.random(2000) < 0.05
    settings = plan(target_samples=200, **more)
    whole = select(world, settings)
    monkeypatch.setattr(partitions, "PART_ROWS", 50)  # 32 parts; one content's rows come in several pieces
    apart = select(world, settings)
    assert apart.fate.tolist() == whole.fate.tolist() and apart.available == whole.available
    for one, other in zip(apart.repeats, whole.repeats, strict=True):
        assert one.tolist() == other.tolist()
