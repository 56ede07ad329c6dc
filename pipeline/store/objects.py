"""A store: objects under one URL (`file://`, `s3://`, any fsspec filesystem), written create-only where it matters.

Invariants: an object appears whole or not at all; `create` has exactly one winner; every call is retried by the one
policy of `retry.py` and ends as `Trouble` when that is spent.
"""

import errno
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec

from pipeline.errors import UserError
from pipeline.store.credentials import taking_up
from pipeline.store.retry import retried

T = TypeVar("T")

S3_OPTIONS: dict[str, Any] = {
    "use_listings_cache": False,
    "skip_instance_cache": True,
    "config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 2}},
}


@dataclass(frozen=True)
class Entry:
    """One object of a listing: its key, relative to the store, and its size in bytes."""

    key: str
    size: int


Entries = list[Entry]
Names = list[str]


class Store:
    """Objects under one URL. Picklable: a worker process opens its own connections."""

    def __init__(self, url: str) -> None:
        self.url = normal_url(url)
        self.exclusive = True  # whether create-only writes are real; `probe.py` finds out
        protocol = urlsplit(self.url).scheme
        options = S3_OPTIONS if protocol == "s3" else {}
        self.filesystem: Any = fsspec.filesystem(protocol, **options)
        self.root: str = self.filesystem._strip_protocol(self.url).rstrip("/")
        self.is_local = protocol == "file"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.url, self.exclusive)

    def path(self, key: str) -> str:
        """The object's path as fsspec wants it (for `file://` an absolute path)."""
        return f"{self.root}/{key}" if key else self.root

    def read(self, key: str) -> bytes:
        """The whole object; FileNotFoundError when there is none."""
        return self._do("read", key, lambda path: bytes(self.filesystem.cat_file(path)))

    def read_range(self, key: str, start: int, end: int) -> bytes:
        """Bytes `start` to `end` (exclusive) of the object."""
        return self._do("read", key, lambda path: bytes(self.filesystem.cat_file(path, start=start, end=end)))

    def create(self, key: str, data: bytes) -> bool:
        """Write the object if nobody has: True when `data` is what stands there now, False when others' bytes do.

        A retried write may be refused because its own first try had succeeded; comparing the bytes tells. Callers that
        must know themselves the one winner put something unique into `data`.
        """
        try:
            self._do("create", key, lambda path: self._create(path, data))
        except FileExistsError:
            return self.read(key) == data
        return True

    def put(self, key: str, data: bytes) -> None:
        """Write or overwrite: only for progress, heartbeats and objects with unique names."""
        self._do("write", key, lambda path: self._write_whole(path, data))

    def upload(self, key: str, local: Path) -> None:
        """Copy a local file to an object with a unique name, in parts when it is large."""
        local.stat()  # a missing local file is the caller's mistake and is not retried
        if self.is_local:
            self._do("write", key, lambda path: self._copy_in(path, local))
        else:
            self._do("write", key, lambda path: self.filesystem.put_file(str(local), path))

    def download(self, key: str, local: Path) -> None:
        """Copy an object to a local file, which may be incomplete when this raises."""
        local.parent.mkdir(parents=True, exist_ok=True)
        self._do("read", key, lambda path: self.filesystem.get_file(path, str(local)))

    def list(self, prefix: str) -> Entries:
        """All objects whose key begins with the folder `prefix`, sorted by key; empty when there are none.

        s3fs gives the folder itself when its first object appears between two of its requests: that is left out.
        """

        def find(path: str) -> Entries:
            try:
                found = self.filesystem.find(path, detail=True)
            except FileNotFoundError:
                return []
            start = len(self.root) + 1
            files = sorted((name, info) for name, info in found.items() if info["type"] == "file")
            return [Entry(name[start:], int(info["size"] or 0)) for name, info in files]

        return self._do("list", prefix, find)

    def folders(self, prefix: str) -> Names:
        """The names one level below `prefix`, sorted."""

        def names(path: str) -> Names:
            try:
                return sorted(
                    {str(name).rstrip("/").rsplit("/", 1)[-1] for name in self.filesystem.ls(path, detail=False)}
                )
            except (FileNotFoundError, NotADirectoryError):
                return []

        return self._do("list", prefix, names)

    def exists(self, key: str) -> bool:
        """Whether the object is there now."""

        def look(path: str) -> bool:
            try:
                return bool(self.filesystem.info(path)["type"] == "file")  # isfile() takes any trouble for a no
            except (FileNotFoundError, NotADirectoryError):
                return False

        return self._do("look up", key, look)

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens when it is gone already."""

        def remove(path: str) -> None:
            try:
                self.filesystem.rm_file(path)
            except FileNotFoundError:
                return

        self._do("delete", key, remove)

    def _do(self, verb: str, key: str, call: Callable[[str], T]) -> T:
        def once() -> Any:
            try:
                return call(self.path(key))
            except FileNotFoundError as error:
                if verb not in ("create", "write"):
                    raise
                # no bucket, or an upload that a lost answer had completed already: no missing object, try again
                raise OSError(f"{type(error).__name__}: {error}") from error

        result: T = retried(f"cannot {verb} {self.url}/{key}", lambda: taking_up(self.filesystem, once))
        return result

    def _create(self, path: str, data: bytes) -> None:
        if not self.exclusive:
            if self.filesystem.exists(path):
                raise FileExistsError(path)
            self._write_whole(path, data)
        elif self.is_local:
            self._link_in(path, data)
        else:
            try:
                self.filesystem.pipe_file(path, data, mode="create")
            except OSError as error:  # s3fs: a 412 whose body does not name the header becomes EINVAL
                if error.errno == errno.EINVAL and self.filesystem.exists(path):
                    raise FileExistsError(path) from error
                raise

    def _link_in(self, path: str, data: bytes) -> None:
        temporary = self._temporary(data)
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            os.link(temporary, path)
        finally:
            temporary.unlink()

    def _write_whole(self, path: str, data: bytes) -> None:
        if not self.is_local:
            self.filesystem.pipe_file(path, data)
            return
        self._move_in(path, self._temporary(data))

    def _copy_in(self, path: str, local: Path) -> None:
        temporary = self._temporary(b"")
        try:
            with local.open("rb") as source, temporary.open("wb") as target:
                while block := source.read(1 << 24):
                    target.write(block)
                target.flush()
                os.fsync(target.fileno())
        except OSError:  # a full disk is not left fuller
            temporary.unlink(missing_ok=True)
            raise
        self._move_in(path, temporary)

    def _move_in(self, path: str, temporary: Path) -> None:
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _temporary(self, data: bytes) -> Path:
        """A complete, synced file on the store's own disk, outside every listing that anybody makes."""
        folder = Path(self.root) / ".incomplete"
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / uuid.uuid4().hex
        try:
            with temporary.open("wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        return temporary


def _reopen(url: str, exclusive: bool) -> Store:
    store = Store(url)
    store.exclusive = exclusive
    return store


def normal_url(url: str) -> str:
    """A store's URL in one form: a plain path becomes an absolute file:// URL, a trailing slash goes.

    Example: "data/store/" -> "file:///home/me/data/store"; "s3://bucket/x/" -> "s3://bucket/x"
    """
    if not url.strip():
        raise UserError("the store's URL is empty", "Give --store URL or set HANFORGE_STORE, e.g. s3://bucket/prefix")
    scheme = urlsplit(url).scheme
    if scheme in ("", "file"):
        return f"file://{Path(url.removeprefix('file://')).expanduser().absolute()}"
    if scheme not in fsspec.available_protocols():
        raise UserError(f"unknown store URL {url!r}", "Use file://, s3:// or another protocol that fsspec knows")
    return url.rstrip("/")
