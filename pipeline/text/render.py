"""Output rows as bytes. The plain way decodes a line and serialises the row; the fast one splices contents as they are.

Both give the same bytes: a content without \\u and \\/ escapes is written in JSON just as orjson would write it.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import orjson

from pipeline.store.inputs import SourceFile
from pipeline.text.chatml import Turn, described, turns_of
from pipeline.text.examine import CHATML, REASONS, SCHEMA_REASONS, Rules, examine, messages_of
from pipeline.text.files import plain_name, stem
from pipeline.text.overlap import open_index, texts_of
from pipeline.text.settings import SystemPrompt


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


class _Message(msgspec.Struct, gc=False):
    role: Literal["system", "user", "assistant"]
    content: msgspec.Raw


class _Row(msgspec.Struct, gc=False):
    messages: list[_Message]


_decode = msgspec.json.Decoder(_Row).decode
_ROLES = {"system": b"system", "user": b"user", "assistant": b"assistant"}


@dataclass(frozen=True)
class Renderer:
    """Makes output rows of lines. `rules` are those of the first pass, `index` the folder of what it compared with."""

    files: Sequence[InputFile]
    sources: Sequence[str]
    rules: Rules
    prompt: SystemPrompt
    index: Path | None = None

    def row(self, line: Line, raw: bytes) -> bytes:
        """The output row of a sound line."""
        file = self.files[line.file]
        try:
            messages = [] if file.upstream or self._columns_named else _decode(raw).messages
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            messages = []
        if not messages:
            return orjson.dumps(self.plain_row(line, raw))
        turns = [b'{"role":"%b","content":%b}' % (_ROLES[one.role], _canonical(bytes(one.content))) for one in messages]
        own = messages[0].role == "system"
        if self.prompt.text is not None and not (self.prompt.mode == "add" and own):
            turns[: int(own)] = [b'{"role":"system","content":%b}' % _json(self.prompt.text)]
        return b'{"messages":[%b],"source":%b,"id":"%016x%016x","origin":%b:%d"}' % (
            b",".join(turns),
            _json(self.sources[line.source]),
            line.key_hi,
            line.key_lo,
            _json(file.plain_origin)[:-1],
            line.line,
        )

    @cached_property
    def _columns_named(self) -> bool:
        return self.rules.columns != CHATML

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


def _canonical(content: bytes) -> bytes:
    """A JSON string as orjson writes it: that it is already, unless it has an escape that orjson does not write."""
    if b"\\" in content and (b"\\u" in content or b"\\/" in content):  # one byte is found much faster than two
        return orjson.dumps(orjson.loads(content))
    return content


@lru_cache(4096)
def _json(text: str) -> bytes:
    return orjson.dumps(text)
