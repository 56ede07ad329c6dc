"""Which rows are kept: exact duplicates, the held-out split, caps, and the sample. Pure arithmetic over records.

Every choice is by hash of (seed, content), so it depends neither on order nor on what else lies in a file. Within a
source the sample is the bottom k by that hash: of two samples of one input the smaller has, source by source, no row
that the larger lacks unless the larger gives that source fewer rows.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.text.examine import CODES
from pipeline.text.records import Records, Table
from pipeline.text.settings import PrepareSettings

_UNSEEN = np.uint64(0x9E3779B97F4A7C15)
_KEEP, _NOT_SAMPLED, _HELDOUT, _REJECTED = 0, 1, 2, 3
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Selection:
    """Positions in the table, each rising: rows kept, held out and rejected. The rest was not sampled.

    `code` is each record's final reason; `first` gives for a duplicate the position of the row that stays.
    """

    rows: Numbers
    heldout: Numbers
    rejects: Numbers
    code: npt.NDArray[np.uint16]
    first: Numbers
    available: dict[str, int]


def select(table: Table, settings: PrepareSettings) -> Selection:
    """Apply duplicates, held-out split, caps and quotas.

    `available` is what each source offers after all rules and its cap; when it sums to less than `target_samples`
    `rows` holds all of it.
    """
    records = table.records
    code = records["code"].copy()
    first = np.full(len(records), -1, np.int64)
    if settings.duplicates == "exact":
        _mark_duplicates(records, code, first)
    state = np.where(code > 0, _REJECTED, _NOT_SAMPLED).astype(np.uint8)
    if settings.heldout is not None:
        _hold_out(records, code, state, settings)
    candidates = np.flatnonzero(state == _NOT_SAMPLED)
    by_source = _ranked_by_source(records, candidates, settings.seed, len(table.sources))
    caps = settings.sources.cap
    offered = [
        min(len(ranked), caps.get(name, len(ranked))) for name, ranked in zip(table.sources, by_source, strict=True)
    ]
    target = sum(offered) if settings.target_samples is None else min(settings.target_samples, sum(offered))
    for ranked, share in zip(by_source, quotas(offered, target), strict=True):
        state[ranked[:share]] = _KEEP
    available = {name: count for name, count in zip(table.sources, offered, strict=True) if count}
    return Selection(
        np.flatnonzero(state == _KEEP),
        np.flatnonzero(state == _HELDOUT),
        np.flatnonzero(state == _REJECTED),
        code,
        first,
        available,
    )


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


def mixed(values: npt.NDArray[np.uint64], seed: int, purpose: int) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of (seed, purpose, value): splitmix64 (Steele, Lea, Flood 2014), vectorised."""
    with np.errstate(over="ignore"):
        salt = np.uint64((seed * 2 + purpose * 0x632BE59BD9B4E019) % 2**64)
        z = _splitmix(np.full(1, salt, np.uint64)) ^ values.astype(np.uint64)
        return _splitmix(_splitmix(z))


def _splitmix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = z + _UNSEEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _mark_duplicates(records: Records, code: npt.NDArray[np.uint16], first: Numbers) -> None:
    """Of sound rows with one key the first in file and line order stays; the others get the code of a duplicate."""
    sound = np.flatnonzero(code == 0)
    high, low = records["key_hi"][sound], records["key_lo"][sound]
    order = np.lexsort((sound, low, high))
    high, low, sound = high[order], low[order], sound[order]
    fresh = np.ones(len(sound), bool)
    fresh[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    leaders = sound[np.maximum.accumulate(np.where(fresh, np.arange(len(sound)), 0))] if len(sound) else sound
    code[sound[~fresh]] = CODES["duplicate"]
    first[sound[~fresh]] = leaders[~fresh]


def _hold_out(
    records: Records, code: npt.NDArray[np.uint16], state: npt.NDArray[np.uint8], settings: PrepareSettings
) -> None:
    """Mark held-out rows. A row is an overlap when it shares its prompt with one of them, or opens with that prompt."""
    heldout = settings.heldout
    if heldout is None:
        return
    candidates = np.flatnonzero(state == _NOT_SAMPLED)
    prompts = records["prompt"][candidates]
    rank = mixed(prompts, settings.seed, purpose=1)
    if heldout.fraction is not None:
        chosen = np.flatnonzero(rank < np.uint64(int(heldout.fraction * 2**64)))
    else:
        ties = mixed(records["key_hi"][candidates], settings.seed, purpose=1)
        chosen = np.lexsort((candidates, records["key_lo"][candidates], ties, prompts, rank))[: heldout.rows]
    state[candidates[chosen]] = _HELDOUT
    held = prompts[chosen]
    shared = np.isin(prompts, held) | np.isin(records["opening"][candidates], held)
    twins = candidates[shared & (state[candidates] != _HELDOUT)]
    state[twins] = _REJECTED
    code[twins] = CODES["overlap"]


def _ranked_by_source(records: Records, candidates: Numbers, seed: int, sources: int) -> list[Numbers]:
    """The candidates of each source, ordered by the sampling hash."""
    rank = mixed(records["key_hi"][candidates], seed, purpose=2)
    source = records["source"][candidates]
    order = np.lexsort((candidates, records["key_lo"][candidates], rank, source))
    ordered = candidates[order]
    edges = np.searchsorted(source[order], np.arange(sources + 1))
    return [ordered[edges[place] : edges[place + 1]] for place in range(sources)]
