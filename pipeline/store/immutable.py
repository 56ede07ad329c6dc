"""Objects that are never changed once written, read and parsed once a process: a live view costs listings and news."""

from collections.abc import Callable
from typing import Any, TypeVar

from pipeline.store.objects import Entry, Store

T = TypeVar("T")
_READ: dict[tuple[str, str, int], Any] = {}  # (store, key, bytes) -> what was made of it


def read_once(store: Store, entry: Entry, make: Callable[[bytes], T]) -> T:
    """`make` of an immutable object's bytes, kept for the life of the process; nobody may change what it gives.

    The size is part of the name: a segment whose writer lost the store's answer is written again, longer.
    """
    name = (store.url, entry.key, entry.size)
    if name not in _READ:
        _READ[name] = make(store.read(entry.key))
    found: T = _READ[name]
    return found
