"""This machine's disks: files that appear whole, whether something fits, what a file's content is."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pipeline.errors import UserError


@contextmanager
def appearing(path: Path, incoming: Path, create: bool = False) -> Iterator[IO[bytes]]:
    """A file that stands at `path` only once the block has ended well; until then it grows at `incoming`, same disk.

    With `create` raises FileExistsError when something stands there already. What was written is synced.
    """
    incoming.parent.mkdir(parents=True, exist_ok=True)
    try:
        with incoming.open("wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        path.parent.mkdir(parents=True, exist_ok=True)
        if create:
            os.link(incoming, path)
        else:
            incoming.replace(path)
    finally:
        incoming.unlink(missing_ok=True)


def require_room(folder: Path, needed_bytes: int, remedy: str) -> None:
    """UserError when so many bytes do not fit the disk of `folder`, which need not exist yet."""
    free = shutil.disk_usage(existing(folder)).free
    if free < needed_bytes:
        raise UserError(f"{needed_bytes / 2**30:.1f} GiB do not fit {folder}: {free / 2**30:.1f} GiB are free", remedy)


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return folder if folder.exists() else existing(folder.parent)


def file_sha256(path: Path) -> str:
    """The sha256 of a local file, read in blocks."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
