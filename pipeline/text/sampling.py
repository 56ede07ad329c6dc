"""Which rows are kept: exact duplicates, the held-out split, caps, and the sample. Pure arithmetic over records.

Every choice is by hash of (seed, content), so it depends neither on order nor on what else lies in a file. Within a
source the sample is the bottom k by that hash: of two samples of one input the smaller has, source by source, no row
that the larger lacks unless the larger gives that source fewer rows. Memory holds one part of the rows at a time, and
one byte for each row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.text.examine import CODES
from pipeline.text.partitions import Entries, Repeats, mixed, read_parts, sort_parts, spread
from pipeline.text.settings import PrepareSettings
from pipeline.text.table import Table

# A row's fate: the code of the reason that rejects it (examine.CODES, from 1), or one of these.
NOT_SAMPLED, HELDOUT, SAMPLED = 253, 254, 255
FATES = 256
Fates = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Selection:
    """What becomes of each row of a table, by position; `available` is what each source offers after its cap."""

    fate: Fates
    repeats: Repeats
    available: dict[str, int]

    def positions(self, fate: int) -> Numbers:
        """The rows of one fate, rising."""
        return np.flatnonzero(self.fate == fate)

    def counts(self) -> list[int]:
        """How many rows each fate has."""
        return [int(count) for count in np.bincount(self.fate, minlength=FATES)]


def select(
    table: Table, settings: PrepareSettings, scratch: Path, mark: Callable[[Fates, Repeats], Repeats] | None = None
) -> Selection:
    """Apply duplicates, held-out split, caps and quotas; `scratch` is an empty folder for files of 44 bytes a row.

    `mark` finds further rows to reject once exact duplicates have their fate; it gives back all repeats (`resembling`).

    When `available` sums to less than `target_samples` all of it is sampled.
    """
    fate = _judged(table)
    parts = spread(table, settings.seed, scratch)
    repeats = sort_parts(parts, settings.seed, settings.duplicates == "exact")
    fate[repeats.position] = CODES["duplicate"]
    if mark is not None:
        repeats = mark(fate, repeats)
    if settings.heldout is not None:
        _hold_out(parts, fate, settings)
    offered = _candidates_by_source(parts, fate, len(table.sources))
    for number, name in enumerate(table.sources):
        offered[number] = min(offered[number], settings.sources.cap.get(name, offered[number]))
    target = sum(offered) if settings.target_samples is None else min(settings.target_samples, sum(offered))
    _sample(parts, fate, quotas(offered, target))
    available = {name: count for name, count in zip(table.sources, offered, strict=True) if count}
    return Selection(fate, repeats, available)


def quotas(offered: list[int], target: int) -> list[int]:
    """How many of `target` rows each source gives: proportional to what it offers, by largest remainders.

    Ties go to the earlier source (names are sorted). No source gives more than it offers.
    Example: offered [5, 3, 2], target 7 -> shares 3.5, 2.1, 1.4 -> [4, 2, 1]
    """
    total = sum(offered)
    if target > total:
        raise ValueError(f"target {target} is more than the {total} rows that the sources {offered} offer")
    if not total:
        return [0] * len(offered)
    floors = [target * count // total for count in offered]
    remainders = sorted(range(len(offered)), key=lambda place: (-(target * offered[place] % total), place))
    for place in remainders[: target - sum(floors)]:
        floors[place] += 1
    return floors


def _judged(table: Table) -> Fates:
    """The fates after the first pass: rejected by a reason, or not yet sampled."""
    fate = np.empty(table.rows, np.uint8)
    for batch in table.batches():
        code = batch.records["code"]
        fate[batch.start : batch.start + len(code)] = np.where(code > 0, code, NOT_SAMPLED)
    return fate


def _candidates(entries: Entries, fate: Fates) -> Entries:
    left: Entries = entries[fate[entries["position"]] == NOT_SAMPLED]
    return left


def _hold_out(parts: Sequence[Path], fate: Fates, settings: PrepareSettings) -> None:
    """Mark held-out rows. A row is an overlap when it shares its prompt with one of them, or opens with that prompt."""
    prompts = [np.empty(0, np.uint64)]
    for entries in _held(parts, fate, settings):
        fate[entries["position"]] = HELDOUT
        prompts.append(np.unique(entries["prompt"]))
    held = np.unique(np.concatenate(prompts))
    for entries in read_parts(parts):
        left = _candidates(entries, fate)
        shared = _among(left["prompt"], held) | _among(left["opening"], held)
        fate[left["position"][shared]] = CODES["overlap"]


def _held(parts: Sequence[Path], fate: Fates, settings: PrepareSettings) -> list[Entries]:
    """The rows to hold out: those whose prompt's hash is small enough, or the `rows` with the smallest ones."""
    heldout, seed = settings.heldout, settings.seed
    assert heldout is not None
    chosen: list[Entries] = []
    for entries in read_parts(parts):
        left = _candidates(entries, fate)
        if heldout.fraction is not None:
            chosen.append(left[mixed(left["prompt"], seed, purpose=1) < np.uint64(int(heldout.fraction * 2**64))])
            continue
        left = np.concatenate([*chosen, left])
        rank, ties = mixed(left["prompt"], seed, purpose=1), mixed(left["key_hi"], seed, purpose=1)
        order = np.lexsort((left["position"], left["key_lo"], ties, left["prompt"], rank))
        chosen = [left[order[: heldout.rows]]]
    return chosen


def _among(values: npt.NDArray[np.uint64], rising: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Which values are in a sorted array."""
    if not len(rising):
        return np.zeros(len(values), bool)
    found: npt.NDArray[np.bool_] = rising[np.minimum(np.searchsorted(rising, values), len(rising) - 1)] == values
    return found


def _candidates_by_source(parts: Sequence[Path], fate: Fates, sources: int) -> list[int]:
    counts = np.zeros(sources, np.int64)
    for entries in read_parts(parts):
        counts += np.bincount(_candidates(entries, fate)["source"], minlength=sources)
    return counts.tolist()


def _sample(parts: Sequence[Path], fate: Fates, shares: list[int]) -> None:
    """Draw each source's share from the rows with the smallest hashes: parts come in the order of hashes."""
    wanted = np.array(shares, np.int64)
    for entries in read_parts(parts):
        left = _candidates(entries, fate)
        source = left["source"]
        order = np.argsort(source, kind="stable")
        counts = np.bincount(source, minlength=len(wanted))
        place = np.arange(len(left)) - np.repeat(np.cumsum(counts) - counts, counts)  # within its source
        drawn = order[place < np.repeat(wanted, counts)]
        fate[left["position"][drawn]] = SAMPLED
        wanted -= np.minimum(wanted, counts)
