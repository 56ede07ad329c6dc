"""The first pass: scan units judged line by line, by worker processes, each unit journaled when it is done.

The result of a unit depends on its bytes and the rules alone, so whoever scans it, and how often, changes nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.store.commit import StageDirectory
from pipeline.store.inputs import SourceFile
from pipeline.text.compiled import has_row_reader, knows
from pipeline.text.examine import CODES, NO_KEY, Judged, Rules, judge
from pipeline.text.files import stem
from pipeline.text.readers import Block, range_blocks, stream_blocks, without_bom
from pipeline.text.records import LENGTH_LIMIT, RECORD, Scanned, ScanUnit, pack_judgement, pack_record, unpacked

if TYPE_CHECKING:
    from pipeline.text.rowreader import RowReader

UNIT_BYTES = 1 << 26
PIECE_RECORDS = 1 << 18  # a unit with more records (a large compressed file) is journaled in pieces


def scan(file: SourceFile, unit: ScanUnit, rules: Rules, compiled: bool) -> Iterator[Scanned]:
    """Judge every line of one unit; gives its pieces, at least one. `compiled`: whether by the compiled row reader."""
    if unit.end < 0:
        blocks = stream_blocks(file, rules.max_row_bytes)
    else:
        blocks = range_blocks(file, unit.start, unit.end, rules.max_row_bytes)
    scanner = _Scanner(stem(file.name), rules, compiled)
    for block in blocks:
        scanner.add(block)
        while scanner.full:
            yield scanner.piece()
    yield scanner.piece()


def journal_key(directory: StageDirectory, unit: ScanUnit, piece: int | None = None) -> str:
    """Where a unit's records lie in the store: the last piece, which says that the unit is done, or an earlier one."""
    return directory.key("journal", f"{unit.name}.zst" if piece is None else f"{unit.name}-{piece:05d}.zst")


@dataclass(frozen=True)
class Scanning:
    """What every unit needs."""

    directory: StageDirectory
    files: tuple[SourceFile, ...]
    rules: Rules
    shared: bool = False


def scan_unit(scanning: Scanning, unit: ScanUnit) -> int:
    """Scan one unit and journal it, unless another worker has; gives the number of lines that were scanned here."""
    directory = scanning.directory
    if scanning.shared and directory.store.exists(journal_key(directory, unit)):
        return 0
    lines, held = 0, None
    for piece in scan(scanning.files[unit.file], unit, scanning.rules, has_row_reader()):
        lines += piece.lines
        if held is not None:
            directory.store.create(journal_key(directory, unit, held.before), held.packed())
        held = piece
    if held is not None:
        directory.store.create(journal_key(directory, unit), held.packed())
    return lines


def journaled(directory: StageDirectory, unit: ScanUnit) -> Iterator[Scanned]:
    """The pieces of a unit that is done, in line order."""
    last = unpacked(directory.store.read(journal_key(directory, unit)))
    for number in range(last.before):
        yield unpacked(directory.store.read(journal_key(directory, unit, number)))
    yield last


class PlainReader:
    """What the compiled `RowReader` is, deciding nothing: a record for each line, all left to the plain rule."""

    def judge(
        self, data: bytes, start: int, records: bytearray, offset: int, line: int
    ) -> tuple[list[tuple[int, int, int]], int, int]:
        """As `RowReader.judge`."""
        undecided: list[tuple[int, int, int]] = []
        lines, begin = data.split(b"\n"), 0
        for number, text in enumerate(lines):
            end = begin + len(text)
            first = begin if number else start
            if not data[first:end].strip():
                begin = end + 1
                continue
            undecided.append((len(records) // RECORD.itemsize, first, end))
            records += pack_record(
                NO_KEY, 0, 0, offset + begin, min(len(text), LENGTH_LIMIT), line + number, 0, 0, 0, 0
            )
            begin = end + 1
        return undecided, len(lines), len(lines) - len(undecided)


class _Scanner:
    """Collects the records of one unit."""

    def __init__(self, source: str, rules: Rules, compiled: bool) -> None:
        self._stem = source
        self._rules = rules
        self._reader = self._row_reader() if compiled and knows(rules.columns) else PlainReader()
        self._records = bytearray()
        self._sources: dict[str, int] = {}
        self._before = self._lines = self._blank = 0  # lines before this piece; lines and blank lines since
        self._pieces = 0

    def _row_reader(self) -> "RowReader":
        from pipeline.text.rowreader import RowReader

        return RowReader(self._rules, self._number)

    def _number(self, name: bytes | None) -> int:
        """The number of a source, -1 for one whose rows are not kept."""
        source, rules = name.decode() if name else self._stem, self._rules
        if source in rules.exclude or (rules.include is not None and source not in rules.include):
            return -1
        return self._sources.setdefault(source, len(self._sources))

    @property
    def full(self) -> bool:
        """Whether there is more than a piece."""
        return len(self._records) > PIECE_RECORDS * RECORD.itemsize

    def add(self, block: Block) -> None:
        """Add a block's lines."""
        records, line = self._records, self._before + self._lines
        if block.skipped:
            place, lines = len(records) // RECORD.itemsize, 1
            stored = min(block.skipped, LENGTH_LIMIT)
            records += pack_record(NO_KEY, 0, 0, block.offset, stored, line, 0, 0, 0, 0)
            self._settle(place, Judged("too_long_line", self._stem, NO_KEY, 0, False))
        else:
            start = len(block.data) - len(without_bom(block.data, block.offset))
            undecided, lines, blank = self._reader.judge(block.data, start, records, block.offset, line)
            self._blank += blank
            for place, begin, end in undecided:
                self._settle(place, judge(block.data[begin:end], self._stem, self._rules))
        self._lines += lines

    def _settle(self, place: int, judged: Judged) -> None:
        """Complete the record of a line, whose place in the file it holds already."""
        reason, source, key, chars, multi, prompt, opening = judged
        number = self._sources.setdefault(source, len(self._sources))
        pack_judgement(self._records, place, (key, prompt, opening), (chars, number, CODES[reason], multi))

    def piece(self) -> Scanned:
        """The next piece, with all lines since the one before it."""
        size = PIECE_RECORDS * RECORD.itemsize
        records = np.frombuffer(bytes(self._records[:size]), RECORD)
        del self._records[:size]
        piece = Scanned(records, list(self._sources), self._lines, self._blank, self._pieces)
        self._pieces += 1
        self._before += self._lines
        self._lines = self._blank = 0
        return piece
