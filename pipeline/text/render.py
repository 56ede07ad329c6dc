"""Output rows as bytes. The plain way decodes a line and serialises the row; the compiled `RowWriter` splices contents
as they are written, and gives the same bytes.
"""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from pipeline.store.inputs import SourceFile
from pipeline.text.chatml import Turn, described, turns_of
from pipeline.text.compiled import has_row_reader, knows
from pipeline.text.examine import REASONS, SCHEMA_REASONS, Rules, examine, messages_of
from pipeline.text.files import plain_name, stem
from pipeline.text.overlap import open_index, texts_of
from pipeline.text.readers import without_bom
from pipeline.text.settings import SystemPrompt

if TYPE_CHECKING:
    from pipeline.text.rowreader import RowWriter


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


@dataclass(frozen=True)
class InputFile:
    """A file with the name that origins show; rows of an upstream stage keep their own origin and further keys."""

    file: SourceFile
    origin: str
    upstream: bool = False

    def origin_of(self, line: int) -> str:
        """What a row of this file has as its origin. Example: 17 -> "a/b.jsonl:17" """
        return f"{self.plain_origin}:{line}"

    @cached_property
    def plain_origin(self) -> str:
        """The origin of the file, the same however it is compressed."""
        return plain_name(self.origin)


@dataclass(frozen=True)
class Renderer:
    """Makes output rows of lines. `rules` are those of the first pass, `index` the folder of what it compared with."""

    files: Sequence[InputFile]
    sources: Sequence[str]
    rules: Rules
    prompt: SystemPrompt
    index: Path | None = None
    compiled: bool = field(default_factory=has_row_reader)

    def rows(self, window: bytes, begin: int, lines: Lines) -> Iterator[tuple[bytes | bytearray, int]]:
        """The output rows of sound lines of one file as pieces, each with its number of rows.

        `window` holds the file's bytes from `begin` on.
        """
        packed, at = lines.tobytes(), 0
        while at < len(lines):
            piece, stop = (b"", at) if self._splicer is None else self._splicer.write(window, begin, packed, at)
            if stop == at:
                line = Line._make(lines[at].tolist())
                start = line.offset - begin
                raw = without_bom(window[start : start + line.length], line.offset)
                piece, stop = orjson.dumps(self.plain_row(line, raw)) + b"\n", at + 1
            yield piece, stop - at
            at = stop

    @cached_property
    def _splicer(self) -> "RowWriter | None":
        if not (self.compiled and knows(self.rules.columns)):
            return None
        from pipeline.text.rowreader import RowWriter

        origins = [None if file.upstream else orjson.dumps(file.plain_origin)[:-1] for file in self.files]
        prompt = None if self.prompt.text is None else orjson.dumps(self.prompt.text)
        return RowWriter(self.rules.columns, prompt, self.prompt.mode == "replace", self.sources, origins)

    def plain_row(self, line: Line, raw: bytes) -> dict[str, Any]:
        """The same row as JSON values, by the plain rule; rows of an upstream stage keep their further keys."""
        file = self.files[line.file]
        row = orjson.loads(raw)
        turns = turns_of(messages_of(row, self.rules.columns))
        origin = row.get("origin") if file.upstream else None
        out = {
            "messages": [turn._asdict() for turn in with_system(turns, self.prompt)],
            "source": self.sources[line.source],
            "id": f"{line.key_hi:016x}{line.key_lo:016x}",
            "origin": origin if isinstance(origin, str) else file.origin_of(line.line),
        }
        return {**row, **out} if file.upstream else out

    def reject(self, line: Line, raw: bytes) -> bytes:
        """The rejects row of a line: its reason, what was found, and the line as it was."""
        reason = REASONS[line.code]
        file = self.files[line.file]
        out: dict[str, Any] = {
            "reason": reason,
            "detail": self._detail(line, raw, reason),
            "source": self.sources[line.source],
            "origin": file.origin_of(line.line),
            "file": file.file.name,
            "line_number": line.line,
        }
        if reason == "too_long_line":
            return orjson.dumps({**out, "line": raw.decode(errors="replace"), "truncated": True})
        try:
            return orjson.dumps({**out, "line": raw.decode()})
        except UnicodeDecodeError:
            return orjson.dumps({**out, "line": base64.b64encode(raw).decode(), "encoding": "base64"})

    def _detail(self, line: Line, raw: bytes, reason: str) -> str:
        if reason == "duplicate":
            return f"the same turns as {self.files[line.first_file].origin_of(line.first_line)}"
        if reason == "near_duplicate":
            return f"nearly the same text as {self.files[line.first_file].origin_of(line.first_line)}"
        if reason == "overlap_ngram" and self.index is not None:
            return str(open_index(self.index).match(texts_of(raw, self.rules.columns)))
        if reason == "overlap":
            return "holds a prompt of the held-out split or of exclude_overlap_with"
        if reason == "too_long_line":
            limit = self.rules.max_row_bytes
            return f"{line.length} bytes, max_row_bytes is {limit}; the first {len(raw)} bytes are kept"
        if reason in SCHEMA_REASONS:
            return described(messages_of(orjson.loads(raw), self.rules.columns))
        return examine(raw, stem(self.files[line.file].file.name), self.rules).detail


def with_system(turns: list[Turn], prompt: SystemPrompt) -> list[Turn]:
    """The turns with the system prompt kept, added or replaced by the rule.

    Example: [user, assistant] under add -> [system, user, assistant]
    """
    own = bool(turns) and turns[0].role == "system"
    if prompt.mode == "keep" or prompt.text is None or (prompt.mode == "add" and own):
        return turns
    return [Turn("system", prompt.text), *(turns[1:] if own else turns)]
