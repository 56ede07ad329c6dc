import io
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.store.inputs import SourceFile
from pipeline.text import readers
from pipeline.text.files import open_stream, plain_name, stem
from pipeline.text.readers import LineCursor, range_blocks, stream_blocks
from tests.text.stages import write_files


def source_file(path: Path) -> SourceFile:
    return SourceFile(path.name, f"file://{path}", path.stat().st_size, "")


class Memory(SourceFile):
    """A file whose bytes are its tag: ranges are cut from it."""

    def read_range(self, start: int, end: int) -> bytes:
        return self.tag.encode("latin-1")[start:end]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.one_of(st.binary(max_size=12), st.just(b"x" * 70)), max_size=12).map(b"\n".join),
    st.integers(1, 40),
    st.integers(3, 30),
)
def test_every_line_is_in_exactly_one_range(data: bytes, unit: int, block: int) -> None:
    file = Memory("a.jsonl", "memory", len(data), data.decode("latin-1"))
    found: list[tuple[int, bytes | int]] = []
    before = readers.JUDGED_BYTES, readers.PIECE_BYTES
    readers.JUDGED_BYTES, readers.PIECE_BYTES = block, 5
    try:
        for start in range(0, len(data), unit):
            for piece in range_blocks(file, start, min(start + unit, len(data)), max_row_bytes=64):
                offset = piece.offset
                for line in piece.lines:
                    found.append((offset, line))
                    offset += len(line) + 1
                if piece.skipped:
                    found.append((offset, piece.skipped))
    finally:
        readers.JUDGED_BYTES, readers.PIECE_BYTES = before
    expected = []
    offset = 0
    for line in io.BytesIO(data):
        expected.append((offset, line.removesuffix(b"\n")))
        offset += len(line)
    assert [(at, line if isinstance(line, bytes) else b"x" * line) for at, line in found] == expected


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_compressed_files_are_the_same_lines(tmp_path: Path, ending: str) -> None:
    data = b"".join(b'{"n": %d}\n' % number for number in range(5000))
    file = source_file(write_files(tmp_path, {f"a{ending}": data}) / f"a{ending}")
    assert open_stream(file).read() == data
    cursor = LineCursor(file)
    for offset in (0, 9, 20000, 10000):
        end = data.index(b"\n", offset)
        assert cursor.read(offset, end - offset, 64) == data[offset:end]
    cursor.close()


def test_parquet_rows_become_json_lines(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{"messages": [{"role": "user", "content": f"질문 {n}"}], "source": None} for n in range(3000)]
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    lines = [line for block in stream_blocks(source_file(path), 1000) for line in block.lines]
    assert [orjson.loads(line) for line in lines] == rows


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_a_cut_off_file_is_named(tmp_path: Path, name: str) -> None:
    path = write_files(tmp_path, {name: b"".join(b"%d\n" % (n * 7919) for n in range(50_000))}) / name
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=name):
        list(stream_blocks(source_file(path), 1000))


def test_a_file_that_is_not_what_its_name_says_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(UserError, match=r"a\.parquet"):
        list(stream_blocks(source_file(tmp_path / "a.parquet"), 1000))


def test_names() -> None:
    assert plain_name("a/b.jsonl.gz") == "a/b.jsonl"
    assert stem("a/kullm.v2.jsonl.zst") == "kullm.v2"
