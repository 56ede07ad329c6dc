from collections.abc import Callable, Sequence

from pipeline.text.examine import Rules
from pipeline.text.settings import Columns

COMPILED_FROM: str

class RowReader:
    def __init__(self, rules: Rules, number_of: Callable[[bytes | None], int]) -> None: ...
    def judge(
        self, data: bytes, start: int, records: bytearray, offset: int, line: int
    ) -> tuple[list[tuple[int, int, int]], int, int]: ...

class RowWriter:
    def __init__(
        self,
        columns: Columns,
        prompt: bytes | None,
        replaces: bool,
        sources: Sequence[str],
        origins: Sequence[bytes | None],
    ) -> None: ...
    def write(self, window: bytes, offset: int, lines: bytes, first: int) -> tuple[bytearray, int]: ...
