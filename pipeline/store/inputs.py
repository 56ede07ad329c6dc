"""External sources: what a URL, folder or glob holds, and the identity that goes into fingerprints.

Identity: a local file's size and sha256, an object's size and ETag (or version), under names relative to the source, so
that the same data has the same identity on a laptop, in docker and under Helm.
"""

import builtins
import fnmatch
import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

from pipeline.errors import Trouble, UserError
from pipeline.store.disk import file_sha256
from pipeline.store.objects import Store, filesystem_of, normal_url
from pipeline.store.retry import retried
from pipeline.store.shards import Part

T = TypeVar("T")

MAGIC = "*?["
SHA256 = "sha256:"


class Damaged(Trouble):
    """An object is there and is not what its manifest says."""


class MissingInput(UserError):
    """Nothing lies where an input should."""


@dataclass(frozen=True)
class SourceFile:
    """One file of a source: `name` is relative to the source, `tag` its identity (sha256:... or etag:...)."""

    name: str
    url: str
    bytes: int
    tag: str

    @property
    def local(self) -> Path | None:
        """Where it lies on this machine; None when it lies elsewhere."""
        return Path(self.url.removeprefix("file://")) if self.url.startswith("file://") else None

    def open(self) -> "IO[builtins.bytes]":
        """The raw bytes as a stream (still compressed when the file is); MissingInput, as below, when it has gone."""
        return self._do("open", lambda filesystem, path: filesystem.open(path, "rb"))

    def read_range(self, start: int, end: int) -> builtins.bytes:
        """Bytes `start` to `end` (exclusive); none where that is no range."""
        if end <= start:
            return b""
        return self._do("read", lambda filesystem, path: bytes(filesystem.cat_file(path, start=start, end=end)))

    def download(self, target: Path) -> None:
        """Copy it to a local file, compared with its identity as far as that tells; Damaged when it is not the same."""
        target.parent.mkdir(parents=True, exist_ok=True)
        self._do("read", lambda filesystem, path: filesystem.get_file(path, str(target)))
        size = target.stat().st_size
        if size != self.bytes or (self.tag.startswith(SHA256) and SHA256 + file_sha256(target) != self.tag):
            how = f"{size} bytes for {self.bytes}" if size != self.bytes else "its sha256 is another"
            raise Damaged(
                f"{self.url} is not what its manifest says: {how}",
                "Run it again; where it is damaged in the store, restore it, or compute its stage anew (rerun: 1)",
            )

    def _do(self, verb: str, call: Callable[[Any, str], T]) -> T:
        filesystem, path = filesystem_of(self.url)
        try:
            return retried(f"cannot {verb} {self.url}", lambda: call(filesystem, path), filesystem)
        except FileNotFoundError as error:
            raise MissingInput(
                f"{self.url} is not there any more", "Put it back, or start a new run: hanforge run RECIPE"
            ) from error


def stored_files(store: Store, parts: Iterable[Part]) -> list[SourceFile]:
    """The parts of a stage's output as files that anybody can open; rows' parts are called by their place."""
    return [
        SourceFile(
            part.name or f"{position:05d}-{part.key.rsplit('-', 1)[-1]}",
            f"{store.url}/{part.key}",
            part.bytes,
            SHA256 + part.sha256,
        )
        for position, part in enumerate(parts)
    ]


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
        return {"url": self.url, "digest": self.digest, "files": [asdict(file) for file in self.files]}


def source_from(record: dict[str, Any]) -> Source:
    """The source as a lock recorded it."""
    return Source(record["url"], tuple(SourceFile(**file) for file in record["files"]))


def look_at(url: str, name: str) -> Source:
    """List a file, a folder or a glob; `name` is what the recipe calls it. UserError when missing or empty."""
    url = normal_url(url)
    filesystem, path = filesystem_of(url)
    found, base = retried(f"cannot list {url}", lambda: _listed(filesystem, path), filesystem)
    items = [
        (item, info)
        for item, info in sorted(found.items())
        if info["type"] == "file" and not item.rsplit("/", 1)[-1].startswith((".", "_MANIFEST.json"))
    ]
    with ThreadPoolExecutor() as pool:
        tags = list(pool.map(lambda entry: _tag(url, *entry), items))
    files = [
        SourceFile(item[len(base) :].lstrip("/"), f"{urlsplit(url).scheme}://{item}", int(info["size"] or 0), tag)
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
    return SHA256 + file_sha256(Path(path))
