"""Raw files as lines with offsets: plain JSONL by byte ranges, .gz, .zst and Parquet as streams.

An offset counts bytes of the uncompressed line stream. Parquet rows become JSON lines of such a stream. Lines end
with a newline byte only; a line longer than the limit is never held in memory.
"""

import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import orjson

from pipeline.errors import Trouble, UserError
from pipeline.store.inputs import SourceFile

BLOCK_BYTES = 1 << 22
_TAIL_BYTES = 1 << 16
_BOM = b"\xef\xbb\xbf"
_ENDINGS = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".json.zst", ".parquet")


@dataclass(frozen=True)
class Block:
    """Whole lines without newlines, the first at `offset`; or one line too long to read, of `skipped` bytes."""

    offset: int
    lines: list[bytes]
    skipped: int = 0


class WindowStream(io.RawIOBase):
    """A remote file as a seekable stream of ranged reads, each retried and checked for its length."""

    def __init__(self, file: SourceFile, position: int = 0) -> None:
        super().__init__()
        self._file = file
        self._position = position

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The position in bytes of the file as it is stored."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; nothing is read."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.bytes}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """One ranged read of the buffer's size; Trouble when the store gives fewer bytes than the file has."""
        end = min(self._position + len(buffer), self._file.bytes)
        if end <= self._position:
            return 0
        data = self._file.read_range(self._position, end)
        if len(data) != end - self._position:
            raise Trouble(f"{self._file.url}: bytes {self._position} to {end} came as {len(data)} bytes")
        buffer[: len(data)] = data
        self._position = end
        return len(data)


def is_readable(name: str) -> bool:
    """Whether a file's ending is one that prepare reads. Example: "a.jsonl.zst" -> True; "README.md" -> False"""
    return name.lower().endswith(_ENDINGS)


def is_splittable(name: str) -> bool:
    """Whether byte ranges of the file can be read on their own: plain JSON lines."""
    return not name.lower().endswith((".gz", ".zst", ".parquet"))


def plain_name(name: str) -> str:
    """The name that origins show: without the compression's ending. Example: "a/b.jsonl.gz" -> "a/b.jsonl"."""
    return name[: -len(name.rsplit(".", 1)[-1]) - 1] if name.lower().endswith((".gz", ".zst")) else name


def stem(name: str) -> str:
    """A file's name without folders and endings: the source of rows that name none. Example: "a/b.jsonl.gz" -> "b"."""
    return plain_name(name).rsplit("/", 1)[-1].rsplit(".", 1)[0]


def open_stream(file: SourceFile) -> IO[bytes]:
    """The uncompressed line stream of a whole file."""
    raw = io.BufferedReader(WindowStream(file), BLOCK_BYTES)
    name = file.name.lower()
    if name.endswith(".gz"):
        from isal import igzip

        unpacked: IO[bytes] = igzip.IGzipFile(fileobj=raw, mode="rb")
        return unpacked
    if name.endswith(".zst"):
        return io.BufferedReader(_Pieces(_zstd_pieces(raw)), BLOCK_BYTES)
    if name.endswith(".parquet"):
        return io.BufferedReader(_Pieces(_parquet_pieces(file)), BLOCK_BYTES)
    return raw


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


@contextmanager
def unpacking(file: SourceFile) -> Iterator[None]:
    """Turn a decoder's complaint about a file into a UserError that names the file."""
    try:
        yield
    except _decoder_errors() as error:
        raise UserError(
            f"{file.url}: cannot be unpacked: {error}", "Copy or write the file again; its tail may be missing"
        ) from error


def _decoder_errors() -> tuple[type[BaseException], ...]:
    import pyarrow
    import zstandard
    from isal import igzip

    return (EOFError, zlib.error, igzip.BadGzipFile, zstandard.ZstdError, pyarrow.ArrowInvalid)


def _line_start(file: SourceFile, position: int) -> int:
    """The offset of the first line that begins at or after `position`; the file's size when there is none."""
    if position <= 0 or position >= file.bytes:
        return max(0, min(position, file.bytes))
    at = position - 1
    while at < file.bytes:
        end = min(at + _TAIL_BYTES, file.bytes)
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
    while data := read(BLOCK_BYTES):
        if skipped:
            end = data.find(b"\n")
            if end < 0:
                skipped += len(data)
                continue
            yield Block(offset, [], skipped + end)
            offset += skipped + end + 1
            data, skipped = data[end + 1 :], 0
        carry = carry + data if carry else data
        cut = carry.rfind(b"\n")
        if cut >= 0:
            yield Block(offset, carry[:cut].split(b"\n"))
            offset += cut + 1
            carry = carry[cut + 1 :]
        if len(carry) > max_row_bytes:
            carry, skipped = b"", len(carry)
    if skipped:
        yield Block(offset, [], skipped)
    elif carry:
        yield Block(offset, [carry])


def without_bom(line: bytes, offset: int) -> bytes:
    """The line as JSON sees it: a byte order mark at the file's very start is no part of it."""
    return line[len(_BOM) :] if offset == 0 and line.startswith(_BOM) else line


class _Pieces(io.RawIOBase):
    """Pieces of bytes as one stream, one piece in memory at a time."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        super().__init__()
        self._pieces = pieces
        self._left = memoryview(b"")

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes of the current piece."""
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = memoryview(piece)
        data = self._left[: len(buffer)]
        self._left = self._left[len(data) :]
        buffer[: len(data)] = data
        return len(data)


def _zstd_pieces(raw: IO[bytes]) -> Iterator[bytes]:
    """The content of all frames. Unlike zstandard's own reader it complains about a frame without an end."""
    import zstandard

    frame = None
    while data := raw.read(_TAIL_BYTES):
        while data:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(data)
            data = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame is not None:
        raise zstandard.ZstdError("the last frame is cut off")


def _parquet_pieces(file: SourceFile) -> Iterator[bytes]:
    import pyarrow.parquet

    table = pyarrow.parquet.ParquetFile(io.BufferedReader(WindowStream(file), BLOCK_BYTES))
    for batch in table.iter_batches(batch_size=1024):
        rows = batch.to_pylist()
        yield b"".join(orjson.dumps(row, default=str) + b"\n" for row in rows)


class LineCursor:
    """Reads single lines by offset, fastest when offsets rise: plain files in windows, streams forward only."""

    def __init__(self, file: SourceFile) -> None:
        self._file = file
        self._start = self._end = 0
        self._window = b""
        self._stream: IO[bytes] | None = None
        self._position = 0

    def read(self, offset: int, length: int, window_bytes: int = BLOCK_BYTES) -> bytes:
        """`length` bytes at `offset` of the line stream; a plain file is read `window_bytes` ahead."""
        if is_splittable(self._file.name):
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
