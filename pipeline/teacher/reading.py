"""Rows as augment and validate read them: an upstream stage's parts, or plain files that nothing has prepared.

A line that is no sound conversation is never an exception: it comes out with its reason and goes to rejects.
"""

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from pipeline.store.inputs import SourceFile
from pipeline.store.shards import Part
from pipeline.store.stage import Rows
from pipeline.text.chatml import Turn, is_writable
from pipeline.text.examine import Rules, content_key, examine
from pipeline.text.files import is_readable, open_stream, plain_name, stem, unpacking

BOM = b"\xef\xbb\xbf"
SAFE_DEPTH = 250  # levels that everybody reads and writes
PLAIN_RULES = Rules(max_row_bytes=64 << 20, chinese=None)


@dataclass(frozen=True)
class Piece:
    """A part of an upstream stage or one external file; `rows` is None while nobody has counted them.

    `lines` gives (number from 1, line) pairs; blank lines are numbered and left out.
    """

    name: str
    stem: str
    rows: int | None
    lines: Callable[[], Iterator[tuple[int, bytes]]]


@dataclass(frozen=True)
class Row:
    """One line. `reason` is empty for a sound conversation; `value` and `turns` are empty where there is none.

    `place` is where a line of an external file lies, also when the row says that it comes from elsewhere (`origin`).
    """

    line: bytes
    id: str
    source: str
    origin: str
    value: dict[str, Any]
    turns: list[Turn]
    reason: str = ""
    detail: str = ""
    place: str = ""

    @property
    def answer(self) -> str:
        """The content of the last turn, which is the assistant's."""
        return self.turns[-1].content


def pieces(rows: Rows) -> list[Piece]:
    """What the rows lie in, in order."""
    if rows.source is None:
        return [_part(rows, part) for part in rows.parts]
    return [_file(file) for file in rows.source.files if is_readable(file.name)]


def read_row(piece: Piece, number: int, line: bytes) -> Row:
    """Judge line `number` (from 1) of a piece: id, source and origin come from the row, else from where it lies."""
    finding = examine(line, piece.stem, PLAIN_RULES)
    place = f"{piece.name}:{number}"
    if finding.reason:
        return Row(line, "", finding.source, place, {}, [], finding.reason, finding.detail)
    value = orjson.loads(line)
    if line.count(b"[") + line.count(b"{") > SAFE_DEPTH and not is_writable(value):
        return Row(line, "", finding.source, place, {}, [], "too_deep", f"nested more than {SAFE_DEPTH} levels")
    turns = [Turn(*turn) for turn in finding.turns]
    identity = _text(value, "id") or content_key(turns).hex()
    origin = _text(value, "origin") or place
    return Row(line, identity, finding.source, origin, value, turns, place=place if piece.rows is None else "")


def _text(value: dict[str, Any], key: str) -> str:
    found = value.get(key)
    return found if isinstance(found, str) else ""


def reject_line(row: Row, reason: str, detail: str = "") -> bytes:
    """A row of the rejects: the reason, the place and the original line, base64 when it is not UTF-8."""
    record = {"reason": reason, "detail": detail, "source": row.source, "origin": row.origin, "id": row.id}
    if row.place and row.place != row.origin:
        record["place"] = row.place
    try:
        record["line"] = row.line.decode()
    except UnicodeDecodeError:
        record |= {"line": base64.b64encode(row.line).decode(), "encoding": "base64"}
    return orjson.dumps(record)


def _part(rows: Rows, part: Part) -> Piece:
    alone = Rows(rows.store, rows.name, (part,))
    return Piece(part.key.rsplit("/", 1)[-1], rows.name, part.rows, lambda: enumerate(alone.lines(), 1))


def _file(file: SourceFile) -> Piece:
    def lines() -> Iterator[tuple[int, bytes]]:
        with unpacking(file), open_stream(file) as stream:
            for number, raw in enumerate(stream, 1):
                if line := (raw if number > 1 else raw.removeprefix(BOM)).rstrip(b"\r\n"):
                    yield number, line

    return Piece(plain_name(file.name), stem(file.name), None, lines)
