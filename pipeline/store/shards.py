"""Parts: immutable objects of a stage's output, JSONL shards above all, each with rows, bytes and sha256.

A part's key is unique, so a part is never overwritten; only a done marker or a manifest makes it count.
"""

import gzip
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import zstandard

from pipeline.errors import Trouble
from pipeline.store.objects import Store

_PIECE_BYTES = 1 << 18  # compressed at once
# Level 1 with four times its table (256 KB): 15 % fewer bytes of Korean rows in the same time.
_ZSTD = zstandard.ZstdCompressionParameters.from_level(1, hash_log=16)
Compression = Literal["zstd", "gzip", "none"]
SUFFIX: dict[Compression, str] = {"zstd": ".jsonl.zst", "gzip": ".jsonl.gz", "none": ".jsonl"}


@dataclass(frozen=True)
class Part:
    """One immutable object: `bytes` and `sha256` as stored; `name` is its file name in a folder output."""

    key: str
    rows: int
    bytes: int
    sha256: str
    name: str = ""


class RowsWriter:
    """Writes one part's rows into a compressed local file; the same lines give the same bytes."""

    def __init__(self, path: Path, compression: Compression) -> None:
        self.path = path
        self.rows = 0
        self._waiting = bytearray()
        self.part: Part | None = None  # set once it lies in the store
        self._file = path.open("wb")
        self._out: Any = self._file
        if compression == "zstd":
            self._out = zstandard.ZstdCompressor(compression_params=_ZSTD).stream_writer(self._file)
        elif compression == "gzip":
            self._out = gzip.GzipFile(filename="", mode="wb", fileobj=self._file, compresslevel=6, mtime=0)

    def write(self, line: bytes) -> None:
        """Add one row: `line` is JSON without a newline."""
        self.write_lines(line + b"\n", 1)

    def write_lines(self, lines: bytes | bytearray, rows: int) -> None:
        """Add `rows` rows, each with its newline. What is compressed at once does not depend on how they come."""
        self._waiting += lines
        self.rows += rows
        if len(self._waiting) >= _PIECE_BYTES:
            whole = len(self._waiting) // _PIECE_BYTES * _PIECE_BYTES
            for start in range(0, whole, _PIECE_BYTES):
                self._out.write(self._waiting[start : start + _PIECE_BYTES])
            del self._waiting[:whole]

    def close(self) -> None:
        """Finish the file; further writes are errors."""
        self._out.write(self._waiting)
        self._waiting = bytearray()
        self._out.close()
        self._file.close()

    def committed(self) -> Part:
        """The stored part; an error before the writer's `with` block has ended."""
        if self.part is None:
            raise RuntimeError("the part is not stored before the end of its with block")
        return self.part


def lines_of(stream: IO[bytes], name: str) -> Iterator[bytes]:
    """The lines of a JSONL stream without their newlines, decompressed by the name's ending, in bounded memory."""
    lines: Any = stream
    if name.endswith(".zst"):
        lines = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(stream))
    elif name.endswith(".gz"):
        lines = gzip.GzipFile(fileobj=stream)
    for line in lines:
        yield line.rstrip(b"\n")


def part_lines(store: Store, part: Part) -> Iterator[bytes]:
    """The rows of a stored part, after its bytes have been compared with the manifest's sha256."""
    return lines_of(io.BytesIO(checked(store.read(part.key), part)), part.key)


def checked(data: bytes, part: Part) -> bytes:
    """The same bytes, after comparing them with the manifest; a short or changed object is Trouble, never data."""
    found = hashlib.sha256(data).hexdigest()
    if found != part.sha256:
        raise Trouble(
            f"{part.key}: {len(data)} bytes with sha256 {found}, the manifest says {part.bytes} with {part.sha256}"
        )
    return data
