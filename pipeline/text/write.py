"""The second pass: the chosen lines are read again in coalesced windows and written as committed shards.

A unit is a slice of the list of lines of one output; its bytes depend on that slice and the settings alone.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.store.commit import Counts, StageDirectory
from pipeline.store.inputs import SourceFile
from pipeline.text.examine import CODES, REASONS, Rules
from pipeline.text.files import BLOCK_BYTES
from pipeline.text.readers import LineCursor, without_bom
from pipeline.text.render import LINE, InputFile, Line, Lines, Renderer
from pipeline.text.sampling import HELDOUT, NOT_SAMPLED, SAMPLED, Selection
from pipeline.text.settings import PrepareSettings
from pipeline.text.table import Table

OUTPUTS = ("rows", "heldout", "rejects")
Offsets = npt.NDArray[np.uint64]
_GAP_BYTES = 1 << 18
_last = threading.local()
_HEAD_BYTES = 4096


@dataclass(frozen=True)
class WriteUnit:
    """One shard: lines [start, stop) of the list of one output (rows, heldout or rejects)."""

    name: str
    output: str
    start: int
    stop: int


@dataclass(frozen=True)
class Writing:
    """What every unit needs. `lines` is a folder with one file of LINE entries for each output."""

    directory: StageDirectory
    files: tuple[InputFile, ...]
    sources: tuple[str, ...]
    rules: Rules
    settings: PrepareSettings
    lines: Path
    shared: bool
    index: Path | None = None


def save_lines(folder: Path, table: Table, selection: Selection) -> None:
    """Write the lists of lines that `Writing.lines` names."""
    repeats = selection.repeats
    first_files = table.files(repeats.first)
    with ExitStack() as stack:
        files = [stack.enter_context((folder / output).open("wb")) for output in OUTPUTS]
        for batch in table.batches():
            fate = selection.fate[batch.start : batch.start + len(batch.records)]
            lines = np.zeros(len(fate), LINE)
            for name in ("offset", "length", "line", "source", "key_hi", "key_lo"):
                lines[name] = batch.records[name]
            lines["file"] = batch.file
            lines["code"] = np.where(fate < NOT_SAMPLED, fate, 0)
            here = slice(*np.searchsorted(repeats.position, (batch.start, batch.start + len(fate))))
            places = repeats.position[here] - batch.start
            lines["first_file"][places] = first_files[here]
            lines["first_line"][places] = repeats.first_line[here]
            for file, wanted in zip(files, (fate == SAMPLED, fate == HELDOUT, fate < NOT_SAMPLED), strict=True):
                file.write(lines[wanted].tobytes())


def write_units(rows: int, heldout: int, rejects: int, shard_rows: int) -> list[WriteUnit]:
    """The units in manifest order.

    Example: 5 rows, 0 held out, 1 reject, shards of 3 -> rows-00000 [0, 3), rows-00001 [3, 5), rejects-00000 [0, 1)
    """
    return [
        WriteUnit(f"{output}-{number:05d}", output, start, min(start + shard_rows, count))
        for output, count in zip(OUTPUTS, (rows, heldout, rejects), strict=True)
        for number, start in enumerate(range(0, count, shard_rows))
    ]


def write_unit(writing: Writing, unit: WriteUnit) -> int:
    """Write and commit one unit, unless another worker has; gives its number of rows."""
    directory = writing.directory
    if writing.shared and directory.store.exists(directory.key("done", f"{unit.name}.json")):
        return unit.stop - unit.start
    offset = unit.start * LINE.itemsize
    lines = np.fromfile(writing.lines / unit.output, LINE, unit.stop - unit.start, offset=offset)
    renderer = Renderer(writing.files, writing.sources, writing.rules, writing.settings.system_prompt, writing.index)
    with directory.write_rows(unit.name, unit.output, writing.settings.compression) as writer:
        for window, begin, part in _windows(writing, lines):
            if unit.output == "rejects":
                for line, raw in _cut(window, begin, part):
                    writer.write(renderer.reject(line, raw))
            else:
                for rows, count in renderer.rows(window, begin, part):
                    writer.write_lines(rows, count)
    counts = Counts(planned=len(lines), ok=len(lines))
    if unit.output == "rejects":
        codes, numbers = np.unique(lines["code"], return_counts=True)
        reasons = {REASONS[code]: int(number) for code, number in zip(codes, numbers, strict=True)}
        counts = Counts(planned=len(lines), rejected=dict(sorted(reasons.items())))
    directory.commit_unit(unit.name, {unit.output: [writer.committed()]}, counts)
    return len(lines)


def _windows(writing: Writing, lines: Lines) -> Iterator[tuple[bytes, int, Lines]]:
    """Lines that lie close together, with the bytes of their file from the first one on, and its offset."""
    ends = lines["offset"] + _kept(lines)
    for first, stop in _spans(lines["file"], lines["offset"], ends):
        begin = int(lines["offset"][first])
        cursor = _cursor(writing.files[int(lines["file"][first])].file)
        yield cursor.read(begin, int(ends[stop - 1]) - begin, 0), begin, lines[first:stop]


def _kept(lines: Lines) -> Offsets:
    """How many bytes are wanted of each line: of one that was too long to judge only the first."""
    kept: Offsets = np.where(
        lines["code"] == CODES["too_long_line"], np.minimum(lines["length"], _HEAD_BYTES), lines["length"]
    ).astype(np.uint64)
    return kept


def _cut(window: bytes, begin: int, lines: Lines) -> Iterator[tuple[Line, bytes]]:
    """Each line with its bytes; too long a line gives its first bytes only."""
    for line, length in zip(map(Line._make, lines.tolist()), _kept(lines).tolist(), strict=True):
        start = line.offset - begin
        yield line, without_bom(window[start : start + length], line.offset)


def _cursor(file: SourceFile) -> LineCursor:
    """Where this thread last read: the next unit goes on from there, so that a compressed file is unpacked once."""
    if getattr(_last, "file", None) != file:
        _last.file, _last.cursor = file, LineCursor(file)
    cursor: LineCursor = _last.cursor
    return cursor


def _spans(files: Offsets, starts: Offsets, ends: Offsets) -> Iterator[tuple[int, int]]:
    """[first, stop) of lines to read at once: of one file, without wide gaps, two blocks in all or a single line.

    Example: lines of 100 bytes at 0, 100 and 10 MB -> (0, 2), (2, 3)
    """
    apart = (files[1:] != files[:-1]) | (starts[1:] > ends[:-1] + np.uint64(_GAP_BYTES))
    edges = [0, *(np.flatnonzero(apart) + 1).tolist(), len(starts)]
    for edge, stop in pairwise(edges):
        first = edge
        while first < stop:
            most = starts[first] + np.uint64(2 * BLOCK_BYTES)
            after = max(first + 1, first + int(np.searchsorted(ends[first:stop], most, side="right")))
            yield first, after
            first = after
