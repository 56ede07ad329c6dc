"""The first pass: scan units judged line by line, by worker processes, each unit journaled when it is done.

The result of a unit depends on its bytes and the rules alone, so whoever scans it, and how often, changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.store.commit import StageDirectory
from pipeline.store.inputs import SourceFile
from pipeline.text.chatml import is_multi_turn
from pipeline.text.examine import CODES, FastExaminer, Rules, characters, content_key, prompt_hashes
from pipeline.text.files import stem
from pipeline.text.readers import Block, range_blocks, stream_blocks, without_bom
from pipeline.text.records import LENGTH_LIMIT, RECORD, Scanned, ScanUnit, pack_record

UNIT_BYTES = 1 << 26
_NO_KEY = bytes(16)


def scan(file: SourceFile, unit: ScanUnit, rules: Rules) -> Scanned:
    """Judge every line of one unit."""
    if unit.end < 0:
        blocks = stream_blocks(file, rules.max_row_bytes)
    else:
        blocks = range_blocks(file, unit.start, unit.end, rules.max_row_bytes)
    scanner = _Scanner(stem(file.name), rules)
    for block in blocks:
        scanner.add(block)
    return scanner.scanned()


def journal_key(directory: StageDirectory, unit: ScanUnit) -> str:
    """Where a unit's records lie in the store."""
    return directory.key("journal", f"{unit.name}.zst")


@dataclass(frozen=True)
class Scanning:
    """What every unit needs."""

    directory: StageDirectory
    files: tuple[SourceFile, ...]
    rules: Rules
    shared: bool = False


def scan_unit(scanning: Scanning, unit: ScanUnit) -> int:
    """Scan one unit and journal it, unless another worker has; gives the number of lines that were scanned here."""
    if scanning.shared and scanning.directory.store.exists(journal_key(scanning.directory, unit)):
        return 0
    scanned = scan(scanning.files[unit.file], unit, scanning.rules)
    scanning.directory.store.create(journal_key(scanning.directory, unit), scanned.packed())
    return scanned.lines


def _prompt_and_opening(turns: Sequence[tuple[str, str]]) -> tuple[int, int]:
    hashes = prompt_hashes(turns)
    return hashes[-1], hashes[0]


class _Scanner:
    """Collects the records of one unit."""

    def __init__(self, source: str, rules: Rules) -> None:
        self._rules = rules
        self._stem = source
        self._examiner = FastExaminer(rules, source)
        self._records = bytearray()
        self._sources: dict[str, int] = {}
        self._lines = self._blank = 0

    def add(self, block: Block) -> None:
        """Add a block's lines."""
        if block.skipped:
            code = CODES["too_long_line"]
            self._append(_NO_KEY, (0, 0), block.offset, block.skipped, 0, self._stem, code, 0)
            self._lines += 1
            return
        offset = block.offset
        lines = block.lines
        if offset == 0 and lines:
            lines = [without_bom(lines[0], 0), *lines[1:]]
        for raw, line, finding in zip(block.lines, lines, self._examiner.findings(lines), strict=True):
            if not line or line.isspace():
                self._blank += 1
            else:
                turns = finding.turns
                sound = not finding.reason
                self._append(
                    content_key(turns) if sound else _NO_KEY,
                    _prompt_and_opening(turns) if sound and self._rules.prompts else (0, 0),
                    offset,
                    len(raw),
                    characters(turns),
                    finding.source,
                    CODES[finding.reason],
                    is_multi_turn(turns),
                )
            self._lines += 1
            offset += len(raw) + 1

    def _append(
        self,
        key: bytes,
        prompts: tuple[int, int],
        offset: int,
        length: int,
        chars: int,
        source: str,
        code: int,
        multi: int,
    ) -> None:
        number = self._sources.setdefault(source, len(self._sources))
        length = min(length, LENGTH_LIMIT)
        self._records += pack_record(key, *prompts, offset, length, self._lines, chars, number, code, multi)

    def scanned(self) -> Scanned:
        """What the unit holds."""
        records = np.frombuffer(bytes(self._records), RECORD)
        return Scanned(records, list(self._sources), self._lines, self._blank)
