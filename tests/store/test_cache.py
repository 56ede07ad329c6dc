"""The local cache: whole folders only, checked, within its limit, safe for processes that use it together."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from pipeline.errors import Trouble, UserError
from pipeline.store import cache
from pipeline.store.disk import file_sha256
from pipeline.store.inputs import stored_files
from pipeline.store.objects import Store
from pipeline.store.shards import Part


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANFORGE_CACHE", str(tmp_path / "cache"))


def stored(store: Store, name: str, size: int, folder: Path) -> list[Part]:
    """A folder output of two files in the store."""
    parts = []
    for file in ("config.json", f"deep/{name}.safetensors"):
        local = folder / "local"
        local.write_bytes(os.urandom(size // 2))
        store.upload(f"parts/{name}/{file}", local)
        parts.append(Part(f"parts/{name}/{file}", 0, size // 2, file_sha256(local), file))
    return parts


def release() -> None:
    """Give the locks of this process back, as its end would."""
    for held in list(cache._HELD):
        os.close(cache._HELD.pop(held))


def test_a_folder_is_staged_once_and_again_after_it_was_damaged(store_url: str, tmp_path: Path) -> None:
    store = Store(store_url)
    parts = stored(store, "a", 1000, tmp_path)
    folder = cache.staged(stored_files(store, parts))
    for part in parts:
        assert (folder / part.name).read_bytes() == store.read(part.key)
    assert cache.staged(stored_files(store, parts)) == folder
    release()
    (folder / "config.json").unlink()
    assert (cache.staged(stored_files(store, parts)) / "config.json").read_bytes() == store.read(parts[0].key)
    release()


def test_a_changed_object_is_trouble_and_is_not_cached(s3_store_url: str, tmp_path: Path) -> None:
    store = Store(s3_store_url)
    parts = stored(store, "a", 1000, tmp_path)
    store.put(parts[1].key, b"x" * 500)
    with pytest.raises(Trouble, match="is not what its manifest says"):
        cache.staged(stored_files(store, parts))
    assert not cache._HELD
    store.put(parts[1].key, b"x" * 499)
    with pytest.raises(Trouble, match="499 bytes"):
        cache.staged(stored_files(store, parts))


def test_the_least_recently_used_folder_makes_room_unless_it_is_in_use(
    s3_store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANFORGE_CACHE_GIB", str(2.5e6 / 2**30))
    store = Store(s3_store_url)
    old, new, newest = (stored(store, name, 1_000_000, tmp_path) for name in "abc")
    first = cache.staged(stored_files(store, old))
    release()
    second = cache.staged(stored_files(store, new))
    third = cache.staged(stored_files(store, newest))
    assert not first.exists() and second.is_dir() and third.is_dir()
    with pytest.raises(UserError, match="no room"):
        cache.staged(stored_files(store, old))  # both others are in use by this very process
    with pytest.raises(UserError, match="HANFORGE_CACHE_GIB"):
        cache.staged(stored_files(store, stored(store, "huge", 3_000_000, tmp_path)))
    release()
    (third.parent / f"{third.name}.incoming").mkdir()  # what a killed process left behind is room as well
    (third.parent / f"{third.name}.incoming" / "half").write_bytes(b"x" * 1_000_000)
    assert cache.staged(stored_files(store, old)).is_dir()
    assert not (third.parent / f"{third.name}.incoming").exists()
    release()


HOLDER = """
import sys, time
from pipeline.store import cache
from pipeline.store.inputs import stored_files
from pipeline.store.objects import Store
from pipeline.store.shards import Part
import json
parts = [Part(**part) for part in json.loads(sys.argv[2])]
print(cache.staged(stored_files(Store(sys.argv[1]), parts)), flush=True)
time.sleep(60)
"""


def test_two_processes_share_a_folder_and_a_killed_one_blocks_nobody(store_url: str, tmp_path: Path) -> None:
    store = Store(store_url)
    parts = stored(store, "a", 100_000, tmp_path)
    command = [sys.executable, "-c", HOLDER, store_url, json.dumps([asdict(part) for part in parts])]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    folder = Path(holder.stdout.readline().strip())
    assert cache.staged(stored_files(store, parts)) == folder  # while the other lives
    release()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    assert cache.staged(stored_files(store, parts)) == folder
    release()


def test_many_that_want_one_new_folder_at_once_all_get_it(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    for number in range(40):
        files = stored_files(store, stored(store, str(number), 100, tmp_path))
        wanting = [threading.Thread(target=cache.staged, args=(files,), daemon=True) for _ in range(4)]
        for one in wanting:
            one.start()
        for one in wanting:
            one.join(30)
        assert not any(one.is_alive() for one in wanting)


def test_a_process_killed_while_it_filled_the_cache_leaves_no_half_folder(s3_store_url: str, tmp_path: Path) -> None:
    store = Store(s3_store_url)
    parts = stored(store, "a", 8_000_000, tmp_path)
    command = [sys.executable, "-c", HOLDER, s3_store_url, json.dumps([asdict(part) for part in parts])]
    filler = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    incoming = tmp_path / "cache" / "folders"
    while not list(incoming.glob("*.incoming")) and filler.poll() is None:
        time.sleep(0.002)
    filler.send_signal(signal.SIGKILL)
    filler.wait()
    assert filler.stdout is not None
    filler.stdout.close()
    folder = cache.staged(stored_files(store, parts))
    assert [file_sha256(folder / part.name) for part in parts] == [part.sha256 for part in parts]
    release()
