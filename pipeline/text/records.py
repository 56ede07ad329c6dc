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
_pack_hashes = struct.Struct("<16sQQ").pack_into
_pack_rest = struct.Struct("<IIHH").pack_into
_REST_AT = 48  # the place of `chars`
LENGTH_LIMIT = 2**32 - 1
Records = npt.NDArray[Any]  # of dtype RECORD


def pack_judgement(
    records: bytearray, place: int, hashes: tuple[bytes, int, int], rest: tuple[int, int, int, int]
) -> None:
    """Write (key, prompt, opening) and (chars, source, code, multi) into the record at `place`."""
    at = place * RECORD.itemsize
    _pack_hashes(records, at, *hashes)
    _pack_rest(records, at + _REST_AT, *rest)


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
    """A piece of a scanned unit: its records in line order, names of sources, how many lines, blank ones included.

    The last piece counts in `before` the pieces that come before it; nearly every unit has no other.
    """

    records: Records
    sources: list[str]
    lines: int
    blank: int
    before: int = 0

    def packed(self) -> bytes:
        """For the journal: a JSON line, then the records; zstd."""
        head = {"sources": self.sources, "lines": self.lines, "blank": self.blank, "before": self.before}
        return zstandard.ZstdCompressor(level=1).compress(orjson.dumps(head) + b"\n" + self.records.tobytes())


def unpacked(data: bytes) -> Scanned:
    """The piece that `Scanned.packed` wrote."""
    head, _, records = zstandard.ZstdDecompressor().decompress(data).partition(b"\n")
    return Scanned(np.frombuffer(records, RECORD), **orjson.loads(head))


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
