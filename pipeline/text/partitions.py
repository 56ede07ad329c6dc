"""Sound rows spread over files by the hash that samples them, so that each part fits into memory whatever the input.

Part p of n holds the hashes from p/n to (p+1)/n of all: rows of one content lie in one part, and all parts one after
the other go through the rows in the order of their hashes.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.text.table import Table
from pipeline.text.workers import available_cores

PART_ROWS = 1 << 17
MOST_PARTS = 512  # files that are open at once
ENTRY = np.dtype(
    [
        ("key_hi", "<u8"),
        ("key_lo", "<u8"),
        ("prompt", "<u8"),
        ("opening", "<u8"),
        ("position", "<u4"),
        ("line", "<u4"),
        ("source", "<u4"),
    ]
)
Entries = npt.NDArray[Any]  # of dtype ENTRY
Hashes = npt.NDArray[np.uint64]
_UNSEEN = np.uint64(0x9E3779B97F4A7C15)


class Repeats(NamedTuple):
    """Rows whose content came before: their positions, rising, and the position and line of the first of each."""

    position: npt.NDArray[np.uint32]
    first: npt.NDArray[np.uint32]
    first_line: npt.NDArray[np.uint32]


def spread(table: Table, seed: int, folder: Path) -> list[Path]:
    """Write the table's sound rows to the files of their parts, each in the order of positions."""
    bits = min(MOST_PARTS - 1, table.rows // PART_ROWS).bit_length()
    paths = [folder / f"part-{number:05d}" for number in range(1 << bits)]
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("wb")) for path in paths]
        for batch in table.batches():
            sound = np.flatnonzero(batch.records["code"] == 0)
            entries = np.empty(len(sound), ENTRY)
            for name in ("key_hi", "key_lo", "prompt", "opening", "line", "source"):
                entries[name] = batch.records[name][sound]
            entries["position"] = sound + batch.start
            part = (sampling_hash(entries, seed) >> np.uint64(63 - bits)) >> np.uint64(1)
            order = np.argsort(part, kind="stable")
            edges = np.searchsorted(part[order], np.arange(len(files) + 1))
            for number, file in enumerate(files):
                file.write(entries[order[edges[number] : edges[number + 1]]].tobytes())
    return paths


def read_parts(paths: Sequence[Path]) -> Iterator[Entries]:
    """The entries of one part after the other."""
    for path in paths:
        yield np.fromfile(path, ENTRY)


def sort_parts(paths: Sequence[Path], seed: int, deduplicate: bool) -> Repeats:
    """Put each part in the order of (hash, key, position); of rows with one key only the first stays in it."""
    with ThreadPoolExecutor(min(available_cores(), 4)) as pool:  # sorting lets other threads run
        found = list(pool.map(lambda path: _sorted_part(path, seed, deduplicate), paths))
    position, first, first_line = (np.concatenate(columns) for columns in zip(*found, strict=True))
    order = np.argsort(position)
    return Repeats(position[order], first[order], first_line[order])


def _sorted_part(path: Path, seed: int, deduplicate: bool) -> Repeats:
    """Done in pieces, so that one row repeated without end takes no memory."""
    kept = np.empty(0, ENTRY)
    found: list[Repeats] = []
    with path.open("rb") as file:
        while len(piece := np.fromfile(file, ENTRY, PART_ROWS)):
            entries = np.concatenate([kept, piece])  # rows kept come first, as they do in the input
            entries = entries[np.lexsort((entries["key_lo"], sampling_hash(entries, seed)))]
            fresh = np.ones(len(entries), bool)
            if deduplicate:
                high, low = entries["key_hi"], entries["key_lo"]
                fresh[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
            leader = entries[np.maximum.accumulate(np.where(fresh, np.arange(len(entries)), 0))[~fresh]]
            found.append(Repeats(entries["position"][~fresh], leader["position"], leader["line"]))
            kept = entries[fresh]
    kept.tofile(path)
    nothing = np.empty(0, np.uint32)
    found.append(Repeats(nothing, nothing, nothing))
    return Repeats(*(np.concatenate(columns) for columns in zip(*found, strict=True)))


def sampling_hash(entries: Entries, seed: int) -> Hashes:
    """What orders rows when some are drawn: one-to-one with the first half of the key."""
    return mixed(entries["key_hi"], seed, purpose=2)


def mixed(values: npt.NDArray[np.uint64], seed: int, purpose: int) -> Hashes:
    """A 64-bit hash of (seed, purpose, value), one-to-one in value: splitmix64 (Steele, Lea, Flood 2014)."""
    with np.errstate(over="ignore"):
        salt = np.uint64((seed * 2 + purpose * 0x632BE59BD9B4E019) % 2**64)
        z = _splitmix(np.full(1, salt, np.uint64)) ^ values.astype(np.uint64)
        return _splitmix(_splitmix(z))


def _splitmix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = z + _UNSEEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
