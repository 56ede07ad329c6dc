"""A store: objects under one URL (`file://`, `s3://`, any fsspec filesystem), written create-only where it matters.

Invariants: an object appears whole or not at all; `create` has exactly one winner; every call is retried by the one
policy of `retry.py` and ends as `Trouble` when that is spent.
"""

import errno
import logging
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

import fsspec

from pipeline.errors import UserError
from pipeline.store.disk import appearing
from pipeline.store.retry import retried

LOG = logging.getLogger(__name__)
T = TypeVar("T")
BLOCK_BYTES = 16 * 2**20  # one part of a multi-part upload; 10,000 of them allow objects of 160 GB
INCOMPLETE = ".incomplete"  # where files of a local store grow

S3_OPTIONS: dict[str, Any] = {
    "use_listings_cache": False,
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
        self.filesystem, path = filesystem_of(self.url, skip_instance_cache=True)
        self.root = path.rstrip("/")
        self.is_local = self.url.startswith("file://")
        self._made: dict[Entry, Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.url, self.exclusive)

    def path(self, key: str) -> str:
        """The object's path as fsspec wants it (for `file://` an absolute path)."""
        return f"{self.root}/{key}" if key else self.root

    def read(self, key: str) -> bytes:
        """The whole object; FileNotFoundError when there is none."""
        return self._do("read", key, lambda path: bytes(self.filesystem.cat_file(path)))

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
        self._do("write", key, lambda path: self._copy_in(path, local))

    @contextmanager
    def incoming(self, key: str) -> Iterator[IO[bytes]]:
        """A stream into an object that appears when the block ends well, and not at all otherwise; nothing is retried.

        Memory: one block. (A killed multi-part upload leaves parts that no listing shows; a bucket's lifecycle rule for
        incomplete uploads removes them.)
        """
        if self.is_local:
            with self._appearing(self.path(key)) as out:
                yield out
            return
        target = self.filesystem.open(self.path(key), "wb", block_size=BLOCK_BYTES, autocommit=False)
        try:
            yield target
            target.close()
            target.commit()
        except BaseException:
            target.closed = True  # or its finaliser would upload what is left in the buffer
            try:
                target.discard()
            except Exception as error:  # noqa: BLE001 - the first failure is what counts
                LOG.warning("cannot discard the unfinished upload of %s: %s", key, error)
            raise

    def download(self, key: str, local: Path) -> None:
        """Copy an object to a local file, which may be incomplete when this raises."""
        local.parent.mkdir(parents=True, exist_ok=True)
        self._do("read", key, lambda path: self.filesystem.get_file(path, str(local)))

    def list(self, prefix: str) -> Entries:
        """All objects whose key begins with the folder `prefix`, sorted by key; empty when there are none.

        s3fs gives the folder itself when its first object appears between two of its requests: that is left out.
        """

        found: dict[str, Any] = self._found("list", prefix, lambda path: self.filesystem.find(path, detail=True), {})
        start = len(self.root) + 1
        files = sorted((name, info) for name, info in found.items() if info["type"] == "file")
        return [Entry(name[start:], int(info["size"] or 0)) for name, info in files]

    def folders(self, prefix: str) -> Names:
        """The names one level below `prefix`, sorted."""
        paths: Names = self._found("list", prefix, lambda path: self.filesystem.ls(path, detail=False), [])
        return sorted({str(path).rstrip("/").rsplit("/", 1)[-1] for path in paths})

    def info(self, key: str) -> dict[str, Any]:
        """What the filesystem tells of the object (type, size, times); empty when there is none."""
        return self._found("look up", key, lambda path: dict(self.filesystem.info(path)), {})

    def exists(self, key: str) -> bool:
        """Whether the object is there now."""
        return self.info(key).get("type") == "file"  # the filesystem's isfile() takes any trouble for a no

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens when it is gone already."""
        self._found("delete", key, self.filesystem.rm_file, None)

    def read_once(self, entry: Entry, make: Callable[[bytes], T]) -> T:
        """`make` of an object that is never changed, kept as long as this store; nobody may change what it gives.

        The size is part of the name: a segment whose writer lost the store's answer is written again, longer.
        """
        if entry not in self._made:
            self._made[entry] = make(self.read(entry.key))
        made: T = self._made[entry]
        return made

    def _found(self, verb: str, key: str, call: Callable[[str], T], otherwise: T) -> T:
        """What the call gives; `otherwise` when nothing lies there."""
        try:
            return self._do(verb, key, call)
        except (FileNotFoundError, NotADirectoryError):
            return otherwise

    def _do(self, verb: str, key: str, call: Callable[[str], T]) -> T:
        def once() -> Any:
            try:
                return call(self.path(key))
            except FileNotFoundError as error:
                if verb not in ("create", "write"):
                    raise
                # no bucket, or an upload that a lost answer had completed already: no missing object, try again
                raise OSError(f"{type(error).__name__}: {error}") from error

        result: T = retried(f"cannot {verb} {self.url}/{key}", once, self.filesystem)
        return result

    def _create(self, path: str, data: bytes) -> None:
        if not self.exclusive:
            if self.filesystem.exists(path):
                raise FileExistsError(path)
            self._write_whole(path, data)
        elif self.is_local:
            with self._appearing(path, create=True) as out:
                out.write(data)
        else:
            try:
                self.filesystem.pipe_file(path, data, mode="create")
            except OSError as error:  # s3fs: a 412 whose body does not name the header becomes EINVAL
                if error.errno == errno.EINVAL and self.filesystem.exists(path):
                    raise FileExistsError(path) from error
                raise

    def _write_whole(self, path: str, data: bytes) -> None:
        if not self.is_local:
            self.filesystem.pipe_file(path, data)
            return
        with self._appearing(path) as out:
            out.write(data)

    def _copy_in(self, path: str, local: Path) -> None:
        if not self.is_local:
            self.filesystem.put_file(str(local), path)
            return
        with local.open("rb") as source, self._appearing(path) as out:
            shutil.copyfileobj(source, out, 1 << 24)

    def _appearing(self, path: str, create: bool = False) -> AbstractContextManager[IO[bytes]]:
        """A file of a local store; it grows on the store's own disk, outside every listing that anybody makes."""
        return appearing(Path(path), Path(self.root) / INCOMPLETE / uuid.uuid4().hex, create)


def _reopen(url: str, exclusive: bool) -> Store:
    store = Store(url)
    store.exclusive = exclusive
    return store


def filesystem_of(url: str, **options: Any) -> tuple[Any, str]:
    """The fsspec filesystem behind a URL, and the path there."""
    scheme = urlsplit(url).scheme
    filesystem = fsspec.filesystem(scheme, **(S3_OPTIONS if scheme == "s3" else {}), **options)
    return filesystem, str(filesystem._strip_protocol(url))


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
