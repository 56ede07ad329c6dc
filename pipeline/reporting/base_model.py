"""Single small files of the checkpoint that a training begins with."""

from pathlib import PurePosixPath
from typing import Any

from pipeline.errors import UserError
from pipeline.store.objects import Store
from pipeline.store.runs import RunLock, outside_files, root_of

__all__ = ["root_file", "root_of"]


def root_file(store: Store, lock: RunLock, root: Any, name: str) -> bytes | None:
    """The content of a small file of what `root_of` gave; None when it is not there or not mirrored."""
    try:
        files = [file for file in outside_files(store, lock, root) if PurePosixPath(file.name).name == name]
    except (UserError, KeyError):  # not mirrored; not pinned, by a lock that only looks
        return None
    found = min(files, key=lambda file: file.name.count("/"), default=None)
    return found.read_range(0, found.bytes) if found else None
