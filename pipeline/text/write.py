"""The second pass: the chosen lines are read again in coalesced windows and written as committed shards.

A unit is a slice of the list of lines of one output; its bytes depend on that slice and the settings alone.
"""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from pipeline.store.commit import Counts, StageDirectory
from pipeline.store.inputs import SourceFile
from pipeline.text.chatml import Turn, described, turns_of
from pipeline.text.examine import CODES, REASONS, SCHEMA_REASONS, Rules, examine, messages_of
from pipeline.text.files import BLOCK_BYTES, plain_name, stem
from pipeline.text.readers import LineCursor, without_bom
from pipeline.text.records import Table
from pipeline.text.sampling import Selection
from pipeline.text.settings import PrepareSettings, SystemPrompt


class Line(NamedTuple):
    """A line to read again: where it lies, what became of it, and for a duplicate the line that stays."""

    offset: int
    length: int
    file: int
    line: int
    source: int
    code: int
    first_file: int
    first_line: int
    key_hi: int
    key_lo: int


_FORMATS = ("<u8", "<u4", "<u4", "<u4", "<u4", "<u4", "<u4", "<u4", "<u8", "<u8")
LINE = np.dtype(list(zip(Line._fields, _FORMATS, strict=True)))
Lines = npt.NDArray[Any]  # of dtype LINE
_GAP_BYTES = 1 << 18
_HEAD_BYTES = 4096


@dataclass(frozen=True)
class InputFile:
    """A file with the name that origins show; rows of an upstream stage keep their own origin and further keys."""

    file: SourceFile
    origin: str
    upstream: bool = False


@dataclass(frozen=True)
class WriteUnit:
    """One shard: lines [start, stop) of the list, all of one output (rows, heldout or rejects)."""

    name: str
    output: str
    start: int
    stop: int


@dataclass(frozen=True)
class Writing:
    """What every unit needs. `lines` is a .npy file of dtype LINE: rows, then held-out rows, then rejects."""

    directory: StageDirectory
    files: tuple[InputFile, ...]
    sources: tuple[str, ...]
    rules: Rules
    settings: PrepareSettings
    lines: Path
    shared: bool


def save_lines(path: Path, table: Table, selection: Selection) -> None:
    """Write the list of lines that `Writing.lines` names."""
    order = np.concatenate([selection.rows, selection.heldout, selection.rejects])
    lines = np.zeros(len(order), LINE)
    for name in ("offset", "length", "line", "source", "key_hi", "key_lo"):
        lines[name] = table.records[name][order]
    lines["file"] = table.file[order]
    lines["code"] = selection.code[order]
    first = selection.first[order]
    lines["first_file"] = table.file[first] if len(table.file) else 0
    lines["first_line"] = np.where(first >= 0, table.records["line"][first] if len(table.file) else 0, 0)
    np.save(path, lines)


def write_units(rows: int, heldout: int, rejects: int, shard_rows: int) -> list[WriteUnit]:
    """The units in manifest order.

    Example: 5 rows, 0 held out, 1 reject, shards of 3 -> rows-00000 [0, 3), rows-00001 [3, 5), rejects-00000 [5, 6)
    """
    units: list[WriteUnit] = []
    at = 0
    for output, count in (("rows", rows), ("heldout", heldout), ("rejects", rejects)):
        for number, start in enumerate(range(0, count, shard_rows)):
            stop = min(start + shard_rows, count)
            units.append(WriteUnit(f"{output}-{number:05d}", output, at + start, at + stop))
        at += count
    return units


def write_unit(writing: Writing, unit: WriteUnit) -> int:
    """Write and commit one unit, unless another worker has; gives its number of rows."""
    directory = writing.directory
    if writing.shared and directory.store.exists(directory.key("done", f"{unit.name}.json")):
        return unit.stop - unit.start
    lines = np.load(writing.lines, mmap_mode="r")[unit.start : unit.stop]
    make = _reject if unit.output == "rejects" else _row
    with directory.write_rows(unit.name, unit.output, writing.settings.compression) as writer:
        for line, raw in _read(writing, lines):
            writer.write(orjson.dumps(make(writing, line, raw)))
    counts = Counts(planned=len(lines), ok=len(lines))
    if unit.output == "rejects":
        codes, numbers = np.unique(lines["code"], return_counts=True)
        reasons = {REASONS[code]: int(number) for code, number in zip(codes, numbers, strict=True)}
        counts = Counts(planned=len(lines), rejected=dict(sorted(reasons.items())))
    directory.commit_unit(unit.name, {unit.output: [writer.committed()]}, counts)
    return len(lines)


def _read(writing: Writing, lines: Lines) -> Iterator[tuple[Line, bytes]]:
    """Each line with its bytes; too long a line gives its first bytes only."""
    kept = np.where(lines["code"] == CODES["too_long_line"], np.minimum(lines["length"], _HEAD_BYTES), lines["length"])
    ahead = _read_ahead(lines, kept)
    cursor: LineCursor | None = None
    current = -1
    try:
        for values, length, window in zip(lines.tolist(), kept.tolist(), ahead, strict=True):
            line = Line(*values)
            if cursor is None or line.file != current:
                if cursor is not None:
                    cursor.close()
                current = line.file
                cursor = LineCursor(writing.files[current].file)
            yield line, without_bom(cursor.read(line.offset, length, window), line.offset)
    finally:
        if cursor is not None:
            cursor.close()


def _read_ahead(lines: Lines, kept: npt.NDArray[Any]) -> list[int]:
    """For each line how many bytes to read at once from its offset: up to the last line close enough behind it.

    `kept`: bytes wanted of each line. Example: lines at 0, 100 and 10 MB, 100 bytes each -> [200, 100, 100]
    """
    starts, files = lines["offset"].tolist(), lines["file"].tolist()
    ends = (lines["offset"] + kept).tolist()
    ahead = [0] * len(starts)
    group_end = 0
    for place in range(len(starts) - 1, -1, -1):
        follower = place + 1
        near = (
            follower < len(starts)
            and files[follower] == files[place]
            and starts[follower] - ends[place] <= _GAP_BYTES
            and group_end - starts[place] <= 2 * BLOCK_BYTES
        )
        if not near:
            group_end = ends[place]
        ahead[place] = group_end - starts[place]
    return ahead


def _origin(writing: Writing, file: int, line: int) -> str:
    return f"{plain_name(writing.files[file].origin)}:{line}"


def _row(writing: Writing, line: Line, raw: bytes) -> dict[str, Any]:
    """The output row of a sound line."""
    file = writing.files[line.file]
    row = orjson.loads(raw)
    turns = turns_of(messages_of(row, writing.rules.columns))
    origin = row.get("origin") if file.upstream else None
    out = {
        "messages": [turn._asdict() for turn in with_system(turns, writing.settings.system_prompt)],
        "source": writing.sources[line.source],
        "id": f"{line.key_hi:016x}{line.key_lo:016x}",
        "origin": origin if isinstance(origin, str) else _origin(writing, line.file, line.line),
    }
    return {**row, **out} if file.upstream else out


def with_system(turns: list[Turn], prompt: SystemPrompt) -> list[Turn]:
    """The turns with the system prompt kept, added or replaced by the rule.

    Example: [user, assistant] under add -> [system, user, assistant]
    """
    own = bool(turns) and turns[0].role == "system"
    if prompt.mode == "keep" or prompt.text is None or (prompt.mode == "add" and own):
        return turns
    return [Turn("system", prompt.text), *(turns[1:] if own else turns)]


def _reject(writing: Writing, line: Line, raw: bytes) -> dict[str, Any]:
    """The rejects row of a line: its reason, what was found, and the line as it was."""
    number, reason = line.file, REASONS[line.code]
    file = writing.files[number].file
    out: dict[str, Any] = {
        "reason": reason,
        "detail": _detail(writing, line, raw, reason),
        "source": writing.sources[line.source],
        "origin": _origin(writing, number, line.line),
        "file": file.name,
        "line_number": line.line,
    }
    if reason == "too_long_line":
        return {**out, "line": raw.decode(errors="replace"), "truncated": True}
    try:
        return {**out, "line": raw.decode()}
    except UnicodeDecodeError:
        return {**out, "line": base64.b64encode(raw).decode(), "encoding": "base64"}


def _detail(writing: Writing, line: Line, raw: bytes, reason: str) -> str:
    if reason == "duplicate":
        return f"the same turns as {_origin(writing, line.first_file, line.first_line)}"
    if reason == "overlap":
        return "holds a prompt of the held-out split or of exclude_overlap_with"
    if reason == "too_long_line":
        limit = writing.rules.max_row_bytes
        return f"{line.length} bytes, max_row_bytes is {limit}; the first {len(raw)} bytes are kept"
    if reason in SCHEMA_REASONS:
        return described(messages_of(orjson.loads(raw), writing.rules.columns))
    return examine(raw, stem(writing.files[line.file].file.name), writing.rules).detail
