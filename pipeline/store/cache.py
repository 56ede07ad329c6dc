"""One local cache for staged folders (models, adapters): `HANFORGE_CACHE`, at most `HANFORGE_CACHE_GIB` large.

A folder is cached under the hash of its files, appears whole or not at all, and is locked (flock, shared) by every
process that uses it for as long as that process lives; the least recently used unlocked folders make room.
For a store on the local disk nothing is copied: the folder consists of symbolic links.
"""

import fcntl
import hashlib
import os
import random
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.errors import UserError
from pipeline.store.inputs import SourceFile
from pipeline.store.retry import causes, is_full

MORE_ROOM = "Free space there, or point HANFORGE_CACHE to a larger disk"
_HELD: dict[str, int] = {}  # locks of this process: folder -> file descriptor, held until the process ends


def cache_folder() -> Path:
    """Where staged folders lie: HANFORGE_CACHE, by default ~/.cache/hanforge."""
    return Path(os.environ.get("HANFORGE_CACHE") or Path.home() / ".cache" / "hanforge")


def limit_bytes() -> int:
    """The cache's size limit in bytes: HANFORGE_CACHE_GIB, 200 by default."""
    return int(float(os.environ.get("HANFORGE_CACHE_GIB", "200")) * 2**30)


def staged(files: Sequence[SourceFile]) -> Path:
    """A local folder that holds exactly `files`; made when it is not there, each file checked as it comes.

    Raises UserError when they cannot fit, Trouble when an object is not what its manifest says.
    """
    lines = [f"{file.name} {file.tag} {file.local or ''}" for file in sorted(files, key=lambda file: file.name)]
    name = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]
    root = cache_folder()
    folder = root / "folders" / name
    (root / "locks").mkdir(parents=True, exist_ok=True)
    if str(folder) not in _HELD:
        lock = os.open(root / "locks" / name, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_SH)  # other processes may be reading the folder for hours
            while not _whole(folder, files):
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:  # who waits for it here would wait until all who read the folder have ended
                    fcntl.flock(lock, fcntl.LOCK_UN)
                    time.sleep(random.uniform(0.0, 0.1))
                else:
                    _fill(files, folder, root)
                fcntl.flock(lock, fcntl.LOCK_SH)  # not atomic, so look again
        except BaseException:
            os.close(lock)
            raise
        _HELD[str(folder)] = lock
    os.utime(root / "locks" / name)
    return folder


def _whole(folder: Path, files: Sequence[SourceFile]) -> bool:
    """Whether every file is there with its size; a link whose object was deleted counts as missing."""
    return all((folder / file.name).is_file() and (folder / file.name).stat().st_size == file.bytes for file in files)


def _fill(files: Sequence[SourceFile], folder: Path, root: Path) -> None:
    if _whole(folder, files):
        return
    shutil.rmtree(folder, ignore_errors=True)
    incoming = folder.with_name(f"{folder.name}.incoming")
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir(parents=True)
    _make_room(root, sum(file.bytes for file in files if file.local is None))

    def fetch(file: SourceFile) -> None:
        target = incoming / file.name
        if file.local is None:
            file.download(target)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(file.local)

    try:
        with ThreadPoolExecutor(max_workers=4) as pool:
            list(pool.map(fetch, files))
        incoming.rename(folder)
    except Exception as error:
        shutil.rmtree(incoming, ignore_errors=True)
        if any(is_full(link) for link in causes(error)):
            raise UserError(f"no space left on the disk of the cache {root}", MORE_ROOM) from error
        raise


def _make_room(root: Path, needed: int) -> None:
    """Delete least recently used folders that nobody has locked until `needed` bytes fit limit and disk."""
    if needed == 0:
        return
    limit = limit_bytes()
    if needed > limit:
        raise UserError(
            f"a folder of {needed / 2**30:.1f} GiB does not fit the cache's limit of {limit / 2**30:.1f} GiB",
            "Raise HANFORGE_CACHE_GIB or point HANFORGE_CACHE to a larger disk",
        )
    folders = root / "folders"
    folders.mkdir(parents=True, exist_ok=True)
    by_age = sorted((root / "locks").iterdir(), key=lambda lock: lock.stat().st_mtime)
    used = sum(folder_bytes(folder) for folder in folders.iterdir())
    for lock_file in by_age:
        if used + needed <= limit and shutil.disk_usage(root).free > needed:
            return
        folder = folders / lock_file.name
        lock = os.open(lock_file, os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for victim in (folder, folder.with_name(f"{folder.name}.incoming")):  # a killed process left the latter
                used -= folder_bytes(victim)
                shutil.rmtree(victim, ignore_errors=True)
        except BlockingIOError:
            continue  # somebody is using it
        finally:
            os.close(lock)
    if used + needed > limit or shutil.disk_usage(root).free <= needed:
        raise UserError(
            f"no room for {needed / 2**30:.1f} GiB in the cache {root}: {used / 2**30:.1f} GiB are in use",
            f"{MORE_ROOM}, or raise HANFORGE_CACHE_GIB",
        )


def folder_bytes(folder: Path) -> int:
    """The size of the files in a folder, links not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_symlink() and path.is_file())
