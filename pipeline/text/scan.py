"""The first pass: scan units judged line by line, by worker processes, each unit journaled when it is done.

The result of a unit depends on its bytes and the rules alone, so whoever scans it, and how often, changes nothing.
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.store.commit import StageDirectory
from pipeline.store.inputs import SourceFile
from pipeline.text.examine import CODES, NO_KEY, Judged, Rules
from pipeline.text.fast import FastExaminer
from pipeline.text.files import stem
from pipeline.text.readers import Block, range_blocks, stream_blocks, without_bom
from pipeline.text.records import LENGTH_LIMIT, RECORD, Scanned, ScanUnit, pack_record, unpacked

UNIT_BYTES = 1 << 26
PIECE_RECORDS = 1 << 18  # a unit with more records (a large compressed file) is journaled in pieces


def scan(file: SourceFile, unit: ScanUnit, rules: Rules) -> Iterator[Scanned]:
    """Judge every line of one unit; gives its pieces, at least one."""
    if unit.end < 0:
        blocks = stream_blocks(file, rules.max_row_bytes)
    else:
        blocks = range_blocks(file, unit.start, unit.end, rules.max_row_bytes)
    scanner = _Scanner(stem(file.name), rules)
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
    for piece in scan(scanning.files[unit.file], unit, scanning.rules):
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


class _Scanner:
    """Collects the records of one unit."""

    def __init__(self, source: str, rules: Rules) -> None:
        self._stem = source
        self._examiner = FastExaminer(rules, source)
        self._records = bytearray()
        self._sources: dict[str, int] = {}
        self._before = self._lines = self._blank = 0  # lines before this piece; lines and blank lines since
        self._pieces = 0

    @property
    def full(self) -> bool:
        """Whether there is more than a piece."""
        return len(self._records) > PIECE_RECORDS * RECORD.itemsize

    def add(self, block: Block) -> None:
        """Add a block's lines."""
        if block.skipped:
            self._append([Judged("too_long_line", self._stem, NO_KEY, 0, False)], [block.skipped], block.offset)
            return
        data = without_bom(block.data, block.offset)
        lines = data.split(b"\n")
        judged = self._examiner.judged(data, lines)
        lengths = [*map(len, lines)]
        lengths[0] += len(block.data) - len(data)  # a byte order mark is part of the first line as it is stored
        blank = {place for place, one in enumerate(judged) if one[0] and (not lines[place] or lines[place].isspace())}
        self._append(judged, lengths, block.offset, blank)

    def _append(self, judged: list[Judged], lengths: list[int], offset: int, blank: Container[int] = ()) -> None:
        """Add one record a line, none for those that are blank."""
        records, sources, first = self._records, self._sources, self._before + self._lines
        for place, (one, length) in enumerate(zip(judged, lengths, strict=True)):
            if one[0] and place in blank:
                self._blank += 1
            else:
                reason, source, key, chars, multi, prompt, opening = one
                number = sources.setdefault(source, len(sources))
                stored = length if length < LENGTH_LIMIT else LENGTH_LIMIT
                code = CODES[reason]
                records += pack_record(key, prompt, opening, offset, stored, first + place, chars, number, code, multi)
            offset += length + 1
        self._lines += len(judged)

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
