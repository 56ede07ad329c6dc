"""The first pass's result: one record of 60 bytes for each line of a scan unit, and how a unit is kept in the journal.

Lines that are blank have no record. `line` counts from 0 within the unit; `source` indexes the unit's own names;
`prompt` and `opening` are hashes of all that stands before the last and before the first answer.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import zstandard

from pipeline.store.inputs import SourceFile
from pipeline.text.files import is_splittable

RECORD = np.dtype(
    [
        ("key_hi", ">u8"),
        ("key_lo", ">u8"),
        ("prompt", "<u8"),
        ("opening", "<u8"),
        ("offset", "<u8"),
        ("length", "<u4"),
        ("line", "<u4"),
        ("chars", "<u4"),
        ("source", "<u4"),
        ("code", "<u2"),
        ("multi", "<u2"),
    ]
)
pack_record = struct.Struct("<16sQQQIIIIHH").pack
LENGTH_LIMIT = 2**32 - 1
Records = npt.NDArray[Any]  # of dtype RECORD


@dataclass(frozen=True)
class ScanUnit:
    """A piece of the input that one process scans: lines of file `file` that begin in [start, end); whole when -1."""

    file: int
    start: int
    end: int

    @property
    def name(self) -> str:
        """The unit's name in the journal."""
        where = "whole" if self.end < 0 else f"{self.start:014d}-{self.end:014d}"
        return f"scan-{self.file:05d}-{where}"


@dataclass(frozen=True)
class Scanned:
    """A scanned unit: its records in line order, names of its sources, how many lines it has, blank ones included."""

    records: Records
    sources: list[str]
    lines: int
    blank: int

    def packed(self) -> bytes:
        """For the journal: a JSON line, then the records; zstd."""
        head = {"sources": self.sources, "lines": self.lines, "blank": self.blank}
        return zstandard.ZstdCompressor(level=1).compress(orjson.dumps(head) + b"\n" + self.records.tobytes())


def unpacked(data: bytes) -> Scanned:
    """The unit that `Scanned.packed` wrote."""
    head, _, records = zstandard.ZstdDecompressor().decompress(data).partition(b"\n")
    values = orjson.loads(head)
    return Scanned(np.frombuffer(records, RECORD), values["sources"], values["lines"], values["blank"])


def scan_units(files: Sequence[SourceFile], unit_bytes: int) -> list[ScanUnit]:
    """All units in the order of files and offsets. Depends on names and sizes alone.

    Example: a 100 MB a.jsonl and b.jsonl.gz with 64 MB units -> (0, 0, 64 MB), (0, 64 MB, 100 MB), (1, 0, -1)
    """
    units: list[ScanUnit] = []
    for number, file in enumerate(files):
        if is_splittable(file.name):
            starts = range(0, file.bytes, unit_bytes)
            units.extend(ScanUnit(number, start, min(start + unit_bytes, file.bytes)) for start in starts)
        else:
            units.append(ScanUnit(number, 0, -1))
    return units


@dataclass(frozen=True)
class Table:
    """Every record of the input. `file` gives each record's file; `line` counts from 1 within the file."""

    records: Records
    file: npt.NDArray[np.uint32]
    sources: list[str]
    lines: int
    blank: int


def joined(units: Sequence[ScanUnit], scanned: Sequence[Scanned]) -> Table:
    """Put units together in file and line order, with source numbers and line numbers made global.

    Source names are sorted, so that their numbers depend on no order of reading.
    """
    names = sorted({name for part in scanned for name in part.sources})
    number = {name: position for position, name in enumerate(names)}
    records = np.empty(sum(len(part.records) for part in scanned), RECORD)
    file = np.empty(len(records), np.uint32)
    at = line = 0
    current = -1
    for unit, part in zip(units, scanned, strict=True):
        if unit.file != current:
            current, line = unit.file, 1
        here = slice(at, at + len(part.records))
        records[here] = part.records
        records["line"][here] += np.uint32(line)
        if part.sources:
            lookup = np.array([number[name] for name in part.sources], np.uint32)
            records["source"][here] = lookup[part.records["source"]]
        file[here] = unit.file
        at += len(part.records)
        line += part.lines
    return Table(records, file, names, sum(part.lines for part in scanned), sum(part.blank for part in scanned))
