"""Near-duplicate rows: MinHash signatures by rensa, candidates by locality-sensitive hashing, and which row stays.

Rows are taken in file and line order. A row goes when an earlier row that stays is at least as alike as the threshold:
likeness is the Jaccard similarity of their sets of n-grams, estimated as the share of equal slots (standard error 0.035
at 0.8). So no chain of small differences removes a row that resembles nothing that stays. Only rows that agree in all
slots of a band are compared (Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, 3.4), 98 % of all pairs that lie
at the threshold and nearly all above it; within a band's bucket with its first row and with the row before.

Cost: 256 bytes a row in the store and on the scratch disk, about 50 in memory, and 16 for each candidate pair.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from pipeline.text.ngrams import Positions, ngram_hashes

SLOTS = 128
ROW_BYTES = 2 * SLOTS
Signatures = npt.NDArray[
    np.uint16
]  # (rows, 128): the lower half of each slot, which two rows share by chance in 65,536
_SEED = 42
_FOUND_AT_THRESHOLD = 0.98
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def signatures(texts: Sequence[str], n: int) -> Signatures:
    """One signature a text, from the set of its n-grams (`ngrams`); a text without any unit counts as one n-gram.

    Example: "할 수 있다" and "할수있다!" have the same signature.
    """
    from rensa import RMinHash

    if not texts:
        return np.zeros((0, SLOTS), np.uint16)
    values, starts, _ = ngram_hashes(texts, n)
    bare = np.flatnonzero(np.diff(starts) == 0)
    alone = np.array([xxhash.xxh3_64_intdigest(texts[place].encode("utf-8", "surrogatepass")) for place in bare])
    values = np.insert(values, starts[bare], alone.astype(np.uint64))
    counts = np.maximum(np.diff(starts), 1)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(values, offsets, SLOTS, _SEED)
    return np.array(matrix.to_rows(), np.uint32).astype(np.uint16)


class SignatureFile:
    """The signatures of all rows in one local file, slot after slot, so that one slot of all rows is one read."""

    def __init__(self, path: Path, rows: int) -> None:
        self._path = path
        self.rows = rows

    @classmethod
    def written(cls, path: Path, rows: int, parts: Iterable[Signatures]) -> "SignatureFile":
        """Write the file from parts in row order; memory: one part. ValueError when they are not `rows` rows."""
        at = 0
        with path.open("wb") as file:
            for part in parts:
                for slot in range(SLOTS):
                    file.seek(2 * (slot * rows + at))
                    file.write(part[:, slot].tobytes())
                at += len(part)
        if at != rows:
            raise ValueError(f"{at} signatures for {rows} rows")
        return cls(path, rows)

    def slot(self, number: int) -> npt.NDArray[np.uint16]:
        """One slot of every row."""
        return np.fromfile(self._path, np.uint16, self.rows, offset=2 * number * self.rows)

    def likeness(self, first: Positions, second: Positions) -> npt.NDArray[np.float64]:
        """The estimated Jaccard similarity of each pair of rows."""
        equal = np.zeros(len(first), np.uint32)
        for number in range(SLOTS):
            slot = self.slot(number)
            equal += slot[first] == slot[second]
        return equal / SLOTS


def near_duplicates(file: SignatureFile, taking_part: npt.NDArray[np.bool_], threshold: float) -> Positions:
    """For each row the earlier row that stays and stands for it, or -1: the row stays, or takes no part.

    Goes on until no pair of the rows that stay is found alike: a bucket's first row may go, and with it its view of
    the others.
    """
    first = np.full(file.rows, -1, np.int64)
    stays = taking_part.copy()
    length = band_slots(threshold)
    while True:
        left, right = _candidates(file, np.flatnonzero(stays), length)
        alike = file.likeness(left, right) >= threshold - 1e-9
        if not alike.any():
            break
        for earlier, later in zip(left[alike].tolist(), right[alike].tolist(), strict=True):
            if stays[earlier] and stays[later]:
                stays[later] = False
                first[later] = earlier
    gone = np.flatnonzero(first >= 0)
    while (first[first[gone]] >= 0).any():  # it stood for others until it went itself
        first[gone] = np.where(first[first[gone]] >= 0, first[first[gone]], first[gone])
    return first


def band_slots(threshold: float) -> int:
    """How many slots make a band: as many as still find 98 % of the pairs that lie at the threshold.

    A pair of likeness s agrees in one band of r slots with s^r, in none of 128 // r bands with (1 - s^r)^(128 // r).
    Example: 0.8 -> 7 slots, 18 bands: 98.6 % at 0.8, 13 % at 0.5, 0.02 % at 0.2
    """
    return max(
        length
        for length in range(1, SLOTS + 1)
        if length == 1 or 1 - (1 - threshold**length) ** (SLOTS // length) >= _FOUND_AT_THRESHOLD
    )


def _candidates(file: SignatureFile, rows: Positions, length: int) -> tuple[Positions, Positions]:
    """Pairs (earlier, later) of `rows` that share a band, sorted by the later row, then by the earlier."""
    pairs = np.zeros(0, np.uint64)
    for begin in range(0, SLOTS - length + 1, length):
        keys = np.zeros(len(rows), np.uint64)
        for number in range(begin, begin + length):
            keys = (keys ^ file.slot(number)[rows]) * _MULTIPLIER
            keys ^= keys >> np.uint64(29)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        again = np.flatnonzero(keys[1:] == keys[:-1]) + 1
        leads = np.ones(len(keys), bool)
        leads[again] = False
        leader = np.maximum.accumulate(np.where(leads, np.arange(len(keys)), 0))[again]
        for other in (leader, again - 1):
            found = rows[order[again]].astype(np.uint64) << np.uint64(32) | rows[order[other]].astype(np.uint64)
            pairs = np.union1d(pairs, found)
    return (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64), (pairs >> np.uint64(32)).astype(np.int64)
