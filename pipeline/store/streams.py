"""Writes an object from a stream that is checked before the object appears: memory bounded by one block, no local copy.

Invariant: an object whose check fails, or whose writer dies, never appears. (A killed multi-part upload leaves parts
that no listing shows; a bucket's lifecycle rule for incomplete uploads removes them.)
"""

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pipeline.errors import HanforgeError
from pipeline.store.objects import Store

LOG = logging.getLogger(__name__)

BLOCK_BYTES = 16 * 2**20  # one part of a multi-part upload; 10,000 of them allow files of 160 GB


class WriteFailed(HanforgeError):
    """The store refused a block in the middle of an object: the object has to be written again from its start."""


class CheckedStream:
    """What a downloader writes to: counts and hashes every byte on its way into the store.

    `sha256` is the content's; `git_sha1` is git's id of a blob of `expected_bytes`: sha1 of "blob SIZE\\0" + content.
    """

    def __init__(self, target: IO[bytes], expected_bytes: int) -> None:
        self.bytes = 0
        self.sha256 = hashlib.sha256()
        self.git_sha1 = hashlib.sha1(f"blob {expected_bytes}\0".encode(), usedforsecurity=False)
        self._target = target

    def write(self, data: bytes) -> int:
        """Pass one chunk on. Raises WriteFailed when the store does not take it."""
        try:
            self._target.write(data)
        except Exception as error:
            raise WriteFailed(f"the store refused a block after {self.bytes} bytes: {error}") from error
        self.bytes += len(data)
        self.sha256.update(data)
        self.git_sha1.update(data)
        return len(data)


@contextmanager
def stream_to(store: Store, key: str, expected_bytes: int) -> Iterator[CheckedStream]:
    """Open an object for writing; it appears when the block ends without an error, and not at all otherwise.

    The caller compares counts and hashes inside the block. Raises WriteFailed when the store fails.
    """
    if store.is_local:
        with _local_file(store, key) as target:
            yield CheckedStream(target, expected_bytes)
        return
    target = _opened(store, key)
    try:
        yield CheckedStream(target, expected_bytes)
    except BaseException:
        _discard(target)
        raise
    try:
        _commit(target)
    except WriteFailed:
        _discard(target)
        raise


def _opened(store: Store, key: str) -> Any:
    try:
        return store.filesystem.open(store.path(key), "wb", block_size=BLOCK_BYTES, autocommit=False)
    except Exception as error:
        raise WriteFailed(f"the store does not open {key}: {error}") from error


def _commit(target: Any) -> None:
    try:
        target.close()
        target.commit()
    except Exception as error:
        raise WriteFailed(f"the store does not complete an object: {error}") from error


def _discard(target: Any) -> None:
    """Give up an unfinished object. Marked as closed, or its finaliser would upload what is left in the buffer."""
    target.closed = True
    try:
        target.discard()
    except Exception as error:  # noqa: BLE001 - the first failure is what counts; unseen parts are all that is left
        LOG.warning("cannot discard the unfinished upload of %s: %s", target.path, error)


@contextmanager
def _local_file(store: Store, key: str) -> Iterator[IO[bytes]]:
    temporary = store._temporary(b"")
    try:
        with temporary.open("wb") as target:
            yield target
            target.flush()
            os.fsync(target.fileno())
        path = Path(store.path(key))
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
