"""Raw files as lines with offsets: plain JSONL by byte ranges, everything else as a stream; and single lines again.

An offset counts bytes of the uncompressed line stream. Lines end with a newline byte only; a line longer than the
limit is never held in memory.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

from pipeline.errors import Trouble
from pipeline.store.inputs import SourceFile
from pipeline.text.files import BLOCK_BYTES, PIECE_BYTES, WindowStream, is_splittable, open_stream, unpacking

JUDGED_BYTES = 1 << 18  # a block, judged at once, fits into a core's own cache
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Block:
    """Whole lines joined by newlines, the first at `offset`; or one line too long to read, of `skipped` bytes."""

    offset: int
    data: bytes
    skipped: int = 0

    @property
    def lines(self) -> list[bytes]:
        """The lines; none of a block that was too long to read."""
        return [] if self.skipped else self.data.split(b"\n")


def range_blocks(file: SourceFile, start: int, end: int, max_row_bytes: int) -> Iterator[Block]:
    """The lines of a plain file that begin at `start` <= offset < `end`, whoever reads the neighbouring ranges."""
    first = _line_start(file, start)
    if first >= end:
        return
    last = min(_line_start(file, end), file.bytes)
    stream = io.BufferedReader(WindowStream(file, first), BLOCK_BYTES)
    yield from _blocks(lambda size: stream.read(min(size, last - stream.tell())), first, max_row_bytes)


def stream_blocks(file: SourceFile, max_row_bytes: int) -> Iterator[Block]:
    """All lines of a compressed or Parquet file. UserError when the file is cut off or not what its name says."""
    with unpacking(file), open_stream(file) as stream:
        yield from _blocks(stream.read, 0, max_row_bytes)


def _line_start(file: SourceFile, position: int) -> int:
    """The offset of the first line that begins at or after `position`; the file's size when there is none."""
    if position <= 0 or position >= file.bytes:
        return max(0, min(position, file.bytes))
    at = position - 1
    while at < file.bytes:
        end = min(at + PIECE_BYTES, file.bytes)
        data = file.read_range(at, end)
        if len(data) != end - at:
            raise Trouble(f"{file.url}: bytes {at} to {end} came as {len(data)} bytes")
        found = data.find(b"\n")
        if found >= 0:
            return at + found + 1
        at = end
    return file.bytes


def _blocks(read: Callable[[int], bytes], offset: int, max_row_bytes: int) -> Iterator[Block]:
    carry, skipped = b"", 0  # `skipped`: bytes so far of a line that is too long to keep
    while data := read(max(JUDGED_BYTES, len(carry))):  # a long line is joined from ever larger pieces
        if skipped:
            end = data.find(b"\n")
            if end < 0:
                skipped += len(data)
                continue
            yield Block(offset, b"", skipped + end)
            offset += skipped + end + 1
            data, skipped = data[end + 1 :], 0
        carry = carry + data if carry else data
        cut = carry.rfind(b"\n")
        if cut >= 0:
            yield Block(offset, carry[:cut])
            offset += cut + 1
            carry = carry[cut + 1 :]
        if len(carry) > max_row_bytes:
            carry, skipped = b"", len(carry)
    if skipped:
        yield Block(offset, b"", skipped)
    elif carry:
        yield Block(offset, carry)


def without_bom(data: bytes, offset: int) -> bytes:
    """Lines as JSON sees them: a byte order mark at the file's very start is no part of the first one."""
    return data[len(_BOM) :] if offset == 0 and data.startswith(_BOM) else data


class LineCursor:
    """Reads single lines by offset, fastest when offsets rise: plain files in windows, streams forward only."""

    def __init__(self, file: SourceFile) -> None:
        self._file = file
        self._splittable = is_splittable(file.name)
        self._start = self._end = 0
        self._window = b""
        self._stream: IO[bytes] | None = None
        self._position = 0

    def read(self, offset: int, length: int, window_bytes: int = BLOCK_BYTES) -> bytes:
        """`length` bytes at `offset` of the line stream; a plain file is read `window_bytes` ahead."""
        if self._splittable:
            return self._from_window(offset, length, window_bytes)
        with unpacking(self._file):
            return self._from_stream(offset, length)

    def _from_window(self, offset: int, length: int, window_bytes: int) -> bytes:
        if not self._start <= offset <= offset + length <= self._end:
            self._start = offset
            self._end = min(self._file.bytes, offset + max(length, window_bytes))
            self._window = self._file.read_range(self._start, self._end)
            if len(self._window) != self._end - self._start:
                raise Trouble(f"{self._file.url}: bytes {self._start} to {self._end} came as {len(self._window)} bytes")
        return self._window[offset - self._start : offset - self._start + length]

    def _from_stream(self, offset: int, length: int) -> bytes:
        if self._stream is None or offset < self._position:
            self.close()
            self._stream, self._position = open_stream(self._file), 0
        while self._position < offset:
            data = self._stream.read(min(BLOCK_BYTES, offset - self._position))
            if not data:
                raise Trouble(f"{self._file.url} ends at {self._position}, a line was at {offset}")
            self._position += len(data)
        parts = []
        while length and (data := self._stream.read(length)):
            parts.append(data)
            length -= len(data)
            self._position += len(data)
        return b"".join(parts)

    def close(self) -> None:
        """Close the stream under the cursor."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
