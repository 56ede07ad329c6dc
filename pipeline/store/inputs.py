"""External sources: what a URL, folder or glob holds, and the identity that goes into fingerprints.

Identity: a local file's size and sha256, an object's size and ETag (or version), under names relative to the source, so
that the same data has the same identity on a laptop, in docker and under Helm.
"""

import builtins
import fnmatch
import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

import fsspec

from pipeline.errors import UserError
from pipeline.store.credentials import taking_up
from pipeline.store.objects import S3_OPTIONS, normal_url
from pipeline.store.retry import retried
from pipeline.store.shards import file_sha256

T = TypeVar("T")

MAGIC = "*?["


class MissingInput(UserError):
    """Nothing lies where an input should."""


@dataclass(frozen=True)
class SourceFile:
    """One file of a source: `name` is relative to the source, `tag` its identity (sha256:... or etag:...)."""

    name: str
    url: str
    bytes: int
    tag: str

    def open(self) -> "IO[builtins.bytes]":
        """The raw bytes as a stream (still compressed when the file is)."""
        filesystem, path = _filesystem(self.url)
        return _retried(f"cannot open {self.url}", filesystem, lambda: filesystem.open(path, "rb"))

    def read_range(self, start: int, end: int) -> builtins.bytes:
        """Bytes `start` to `end` (exclusive)."""
        filesystem, path = _filesystem(self.url)
        what = f"cannot read {self.url}"
        return _retried(what, filesystem, lambda: bytes(filesystem.cat_file(path, start=start, end=end)))


@dataclass(frozen=True)
class Source:
    """What a URL held when it was looked at."""

    url: str
    files: tuple[SourceFile, ...]

    @property
    def digest(self) -> str:
        """The identity of the whole: names, sizes and tags, in name order."""
        lines = [f"{file.name}\t{file.bytes}\t{file.tag}" for file in self.files]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def picked(self, globs: list[str] | None) -> "Source":
        """Only the files whose name matches one of `globs`; UserError when a glob matches nothing."""
        if globs is None or not self.files:
            return self
        for glob in globs:
            if not any(fnmatch.fnmatch(file.name, glob) for file in self.files):
                names = ", ".join(file.name for file in self.files[:8])
                raise UserError(f"{self.url}: no file matches {glob!r}", f"It holds: {names or 'nothing'}")
        return Source(self.url, tuple(f for f in self.files if any(fnmatch.fnmatch(f.name, g) for g in globs)))

    def plain(self) -> dict[str, Any]:
        """As JSON values, the way a run's lock keeps it."""
        files = [{"name": f.name, "url": f.url, "bytes": f.bytes, "tag": f.tag} for f in self.files]
        return {"url": self.url, "digest": self.digest, "files": files}


def source_from(record: dict[str, Any]) -> Source:
    """The source as a lock recorded it."""
    return Source(record["url"], tuple(SourceFile(**file) for file in record["files"]))


def look_at(url: str, name: str) -> Source:
    """List a file, a folder or a glob; `name` is what the recipe calls it. UserError when missing or empty."""
    url = normal_url(url) if not any(mark in url for mark in MAGIC) else _normal_glob(url)
    filesystem, path = _filesystem(url)
    found, base = _retried(f"cannot list {url}", filesystem, lambda: _listed(filesystem, path))
    items = [
        (item, info)
        for item, info in sorted(found.items())
        if info["type"] == "file" and not item.rsplit("/", 1)[-1].startswith((".", "_MANIFEST.json"))
    ]
    with ThreadPoolExecutor() as pool:
        tags = list(pool.map(lambda entry: _tag(url, *entry), items))
    files = [
        SourceFile(_relative(item, base), _url(url, item), int(info["size"] or 0), tag)
        for (item, info), tag in zip(items, tags, strict=True)
    ]
    if not files:
        raise MissingInput(f"input {name!r}: nothing at {url}", "Put the files there, or override it: --input NAME=URL")
    if not any(file.bytes for file in files):
        raise UserError(f"input {name!r}: {len(files)} files at {url}, all empty", "Check how they were written")
    return Source(url, tuple(files))


def check_unchanged(files: Iterable[SourceFile]) -> None:
    """UserError when a file is not what the run was locked with: its workers would read different things."""
    present = [file for file in files if file.bytes]
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda file: look_at(file.url, file.name).files[0], present))
    for file, now in zip(present, found, strict=True):
        if (now.bytes, now.tag) != (file.bytes, file.tag):
            raise UserError(
                f"{file.url} changed since the run was locked: {file.bytes} bytes then, {now.bytes} bytes now",
                "Start a new run: hanforge run RECIPE",
            )


def _retried(what: str, filesystem: Any, call: Callable[[], T]) -> T:
    return retried(what, lambda: taking_up(filesystem, call))


def _listed(filesystem: Any, path: str) -> tuple[dict[str, Any], str]:
    """What is at the path: {full path: info}, and the folder that names are relative to."""
    if any(mark in path for mark in MAGIC):
        fixed = path[: min(path.index(mark) for mark in MAGIC if mark in path)].rsplit("/", 1)[0]
        return filesystem.glob(path, detail=True), fixed
    if filesystem.isfile(path):
        return {path: filesystem.info(path)}, path.rsplit("/", 1)[0]
    try:
        return filesystem.find(path, detail=True), path
    except FileNotFoundError:
        return {}, path


def _relative(item: str, base: str) -> str:
    return item[len(base) :].lstrip("/")


def _tag(url: str, path: str, info: dict[str, Any]) -> str:
    if urlsplit(url).scheme == "file":
        now = Path(path).stat()
        return _content_tag(path, now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino)
    for key in ("VersionId", "ETag", "etag", "md5Hash", "content_md5", "version_id"):
        if info.get(key) and info[key] != "null":
            return f"{key.lower()}:{str(info[key]).strip(chr(34))}"
    raise UserError(
        f"{url}: the store gives no ETag or version for {path}", "Mirror the data into an s3:// or file:// store"
    )


@lru_cache(1 << 16)
def _content_tag(path: str, *state: int) -> str:
    """The content's identity, computed once a process as long as size, times and inode stay what they are."""
    return f"sha256:{file_sha256(Path(path))}"


def _filesystem(url: str) -> tuple[Any, str]:
    scheme = urlsplit(url).scheme
    options = (
        {key: value for key, value in S3_OPTIONS.items() if key != "skip_instance_cache"} if scheme == "s3" else {}
    )
    filesystem = fsspec.filesystem(scheme, **options)
    return filesystem, filesystem._strip_protocol(url)


def _url(source: str, path: str) -> str:
    scheme = urlsplit(source).scheme
    return f"file://{path}" if scheme == "file" else f"{scheme}://{path}"


def _normal_glob(url: str) -> str:
    return url if "://" in url else f"file://{Path(url).expanduser().absolute()}"
