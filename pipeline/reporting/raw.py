"""From a row's origin, `file.jsonl:LINE`, back to the raw line in the run's inputs."""

from collections.abc import Collection, Iterable

from pipeline.reporting.rows import split_origin
from pipeline.store.inputs import SourceFile
from pipeline.store.runs import RunLock
from pipeline.text.files import is_readable, open_stream, plain_name, unpacking

MOST_BYTES = 1 << 20  # of a raw line that is shown


def raw_lines(lock: RunLock, origins: Iterable[str], inputs: Collection[str] | None = None) -> dict[str, bytes]:
    """The raw line behind each origin; an origin whose file the run's `inputs` (all by default) lack is left out.

    Each file is read once, up to its last wanted line. Raises MissingInput when a file has gone.
    """
    wanted: dict[str, dict[int, str]] = {}
    for origin in origins:
        name, line = split_origin(origin)
        if line:
            wanted.setdefault(name, {})[line] = origin
    found: dict[str, bytes] = {}
    for name, numbers in wanted.items():
        file = origin_file(lock, name, inputs)
        if file is not None:
            found.update({numbers[number]: line for number, line in _picked(file, set(numbers))})
    return found


def origin_file(lock: RunLock, name: str, inputs: Collection[str] | None = None) -> SourceFile | None:
    """The input file that an origin means; of several inputs with one file name, `input/name` tells which."""
    sources = {key: source for key, source in lock.inputs.items() if inputs is None or key in inputs}
    files = [(key, file) for key, source in sources.items() for file in source.files if is_readable(file.name)]
    for _, file in files:
        if plain_name(file.name) == name:
            return file
    for key, file in files:
        if f"{key.removeprefix('input:').rstrip('/').rsplit('/', 1)[-1]}/{plain_name(file.name)}" == name:
            return file
    return None


def _picked(file: SourceFile, numbers: set[int]) -> list[tuple[int, bytes]]:
    out: list[tuple[int, bytes]] = []
    last = max(numbers)
    with unpacking(file), open_stream(file) as stream:
        for number, line in enumerate(stream, 1):
            if number in numbers:
                out.append((number, line.rstrip(b"\r\n")[:MOST_BYTES]))
            if number >= last:
                break
    return out
