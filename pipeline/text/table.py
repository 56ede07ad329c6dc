"""Every record of the input as one table in a local file, read batch by batch: memory does not grow with the rows.

A row's position is its place in the order of files and lines.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.text.records import RECORD, Records, Scanned, ScanUnit

BATCH_RECORDS = 1 << 17


class _Piece(NamedTuple):
    """Consecutive records of one unit: where they lie, their file, the line their unit begins with, their sources."""

    start: int
    stop: int
    file: int
    first_line: int
    sources: npt.NDArray[np.uint32]


class Batch(NamedTuple):
    """Records at positions `start` and up, of one file; `line` counts from 1 in the file, `source` in the table."""

    start: int
    file: int
    records: Records


@dataclass(frozen=True)
class Table:
    """The table: source names are sorted, so that their numbers depend on no order of reading."""

    path: Path
    pieces: Sequence[_Piece]
    sources: list[str]
    lines: int
    blank: int

    @property
    def rows(self) -> int:
        """How many records there are."""
        return self.pieces[-1].stop if self.pieces else 0

    def batches(self) -> Iterator[Batch]:
        """All records in order."""
        for piece in self.pieces:
            for start in range(piece.start, piece.stop, BATCH_RECORDS):
                count = min(BATCH_RECORDS, piece.stop - start)
                records = np.fromfile(self.path, RECORD, count, offset=start * RECORD.itemsize)
                records["line"] += np.uint32(piece.first_line)
                records["source"] = piece.sources[records["source"]]
                yield Batch(start, piece.file, records)

    def files(self, positions: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
        """The file of each position."""
        stops = np.array([piece.stop for piece in self.pieces], np.int64)
        files = np.array([piece.file for piece in self.pieces], np.uint32)
        return files[np.searchsorted(stops, positions, side="right")]


def tabulate(path: Path, units: Iterable[tuple[ScanUnit, Iterable[Scanned]]]) -> Table:
    """Write the units' records, in file and line order, to a new file at `path`."""
    numbers: dict[str, int] = {}
    found: list[_Piece] = []
    at = lines = blank = 0
    file, file_lines = -1, 0
    with path.open("wb") as out:
        for unit, pieces in units:
            if unit.file != file:
                file, file_lines = unit.file, 0
            first_line = file_lines + 1
            for piece in pieces:
                out.write(piece.records.data)
                local = [numbers.setdefault(name, len(numbers)) for name in piece.sources]
                stop = at + len(piece.records)
                found.append(_Piece(at, stop, file, first_line, np.array(local, np.uint32)))
                at = stop
                file_lines += piece.lines
                lines += piece.lines
                blank += piece.blank
    names = sorted(numbers)
    rank = np.empty(len(names), np.uint32)  # from the order of first sight to the order of names
    rank[[numbers[name] for name in names]] = np.arange(len(names))
    return Table(path, [piece._replace(sources=rank[piece.sources]) for piece in found], names, lines, blank)
