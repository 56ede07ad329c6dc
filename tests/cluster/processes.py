"""Which processes run on this machine, by their command lines; those of the cluster are seen from outside it too."""

from collections.abc import Iterator
from pathlib import Path


def command_lines() -> Iterator[tuple[int, list[str]]]:
    """Process id (the machine's) and words of every process; none on a system without /proc."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield int(path.parent.name), path.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has just ended
            continue


def processes(*words: str) -> list[int]:
    """The ids of processes whose command line has all these words."""
    return [pid for pid, command in command_lines() if all(word in command for word in words)]
