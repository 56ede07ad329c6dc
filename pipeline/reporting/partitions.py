"""Fixed-size records divided over files on disk by the hash that is their key, to join sets of any size.

Records of one key always lie in the partition of the same number, in the order in which they were added; memory holds
one partition at a time.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Records = npt.NDArray[Any]  # structured, with a field `key` of 64 hash bits
PARTITION_ROWS = 1 << 18
BLOCK_ROWS = 1 << 15
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Partitions:
    """`count` files of records of one dtype; `fields` names what `add_packed` packs."""

    def __init__(self, folder: Path, name: str, count: int, dtype: np.dtype[Any]) -> None:
        self.count = count
        self.dtype = dtype
        self._paths = [folder / f"{name}-{number:04d}" for number in range(count)]

    def add(self, records: Records) -> None:
        """Append records, each to its partition."""
        place = records["key"] % np.uint64(self.count)
        for number in np.unique(place).tolist():
            with self._paths[number].open("ab") as out:
                out.write(records[place == number].tobytes())

    def add_packed(self, rows: Iterable[bytes]) -> None:
        """Append records given as packed bytes, a block at a time."""
        block: list[bytes] = []
        for row in rows:
            block.append(row)
            if len(block) == BLOCK_ROWS:
                self.add(np.frombuffer(b"".join(block), self.dtype))
                block.clear()
        self.add(np.frombuffer(b"".join(block), self.dtype))

    def read(self, number: int) -> Records:
        """The records of one partition."""
        path = self._paths[number]
        return np.fromfile(path, self.dtype) if path.exists() else np.empty(0, self.dtype)


def partition_count(rows: int) -> int:
    """How many partitions keep each near 2^18 of `rows` records. Example: 200_000 -> 1, 681_000 -> 3"""
    return max(1, -(-rows // PARTITION_ROWS))


def by_occurrence(records: Records) -> tuple[Records, npt.NDArray[np.uint64]]:
    """Records sorted by key, and a key that is unique: the n-th record of one key pairs with the n-th of another set.

    Example: keys 7, 5, 7 -> records of 5, 7, 7 and keys 5, 7, 7 + a constant
    """
    records = records[np.argsort(records["key"], kind="stable")]
    keys = records["key"]
    places = np.arange(len(keys), dtype=np.uint64)
    new = np.ones(len(keys), bool)
    new[1:] = keys[1:] != keys[:-1]
    first = np.maximum.accumulate(np.where(new, places, np.uint64(0)))
    return records, keys + (places - first) * _GOLDEN
