"""Raw files by name and as streams: what prepare reads, and the uncompressed line stream of each format.

Remote files are read in ranges, each retried and checked for its length. A file that ends too early or is not what
its name says is the user's to mend; it never looks like a shorter file.
"""

import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import orjson

from pipeline.errors import Trouble, UserError
from pipeline.store.inputs import SourceFile

BLOCK_BYTES = 1 << 22
PIECE_BYTES = 1 << 16
_ENDINGS = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".json.zst", ".parquet")


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
    while data := raw.read(PIECE_BYTES):
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
