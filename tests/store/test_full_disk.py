"""A disk that is full, really: a tiny tmpfs in a mount namespace of its own, for the scratch, the store and the cache.

One clear message, exit code 2, nothing half-written; and the same bytes as ever once there is room.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.recipe.models import Recipe
from pipeline.store.commit import Manifest
from pipeline.store.objects import Store
from pipeline.store.pins import resolve
from pipeline.store.runs import RunLock, create_run
from tests.conftest import use_s3
from tests.engine.tiny import bare_checkpoint
from tests.servers.openai_endpoint import openai_server
from tests.servers.process import ROOT
from tests.servers.s3 import S3Server
from tests.text.stages import chat, jsonl, write_files

SCRIPT = """
mkdir -p "$DISK"
mount -t tmpfs -o "$SMALL" none "$DISK"
if [ -n "$SEED_STORE" ]; then cp -r "$SEED_STORE/." "$DISK"; fi
"$@"; echo "first $?"
find "$DISK" -name '*.incoming*' -o -path '*/.incomplete/*' | sed 's/^/left /'
mount -o remount,"$LARGE" "$DISK"
"$@"; echo "second $?"
if [ -n "$SEED_STORE" ]; then cp -r "$DISK/." "$SEED_STORE"; fi
"""
CAN_MOUNT = subprocess.run(["unshare", "-Urm", "true"], capture_output=True, check=False).returncode == 0
pytestmark = pytest.mark.skipif(not CAN_MOUNT, reason="no mount namespaces for this user")


def twice(words: list[str], disk: Path, small: str, large: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `hanforge WORDS` on a disk that is too small, then again after it has grown."""
    given = {"DISK": str(disk), "SMALL": small, "LARGE": large, "SEED_STORE": "", **environment}
    return subprocess.run(
        ["unshare", "-Urm", "sh", "-c", SCRIPT, "sh", sys.executable, "-m", "jobs", *words],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", **given}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def locked_prepare(store: Store, folder: Path) -> RunLock:
    """A run over rows that do not compress."""
    if not (folder / "raw").exists():
        rows = [
            chat(f"{number} 더하기 하나? {os.urandom(300).hex()}", f"답은 {number + 1}입니다.") for number in range(400)
        ]
        write_files(folder / "raw", {"a.jsonl": jsonl(*rows)})
    settings = {"kind": "prepare", "source": {"input": "raw"}, "shard_rows": 50, "workers": 1}
    recipe = Recipe(name="full", inputs={"raw": {"url": str(folder / "raw")}}, stages={"prepare": settings})
    return create_run(store, resolve(store, recipe))


def manifest_of(store: Store, lock: RunLock, stage: str = "prepare") -> Manifest:
    manifest = lock.directory(store, stage).manifest()
    assert manifest is not None
    return manifest


def calm_prepare(folder: Path) -> Manifest:
    """The same run on a disk with room."""
    store = Store(f"file://{folder / 'calm'}")
    lock = locked_prepare(store, folder)
    words = ["stage", "prepare", "--store", store.url, "--run", lock.run_id]
    subprocess.run([sys.executable, "-m", "jobs", *words], cwd=ROOT, check=True, capture_output=True)
    return manifest_of(store, lock)


def assert_clear(ended: "subprocess.CompletedProcess[str]", words: str) -> None:
    """Exit code 2 with one message without a traceback, nothing half-written, and done after there was room."""
    assert ended.stdout.split("\n")[:2] == ["first 2", "second 0"], ended.stdout + ended.stderr
    assert words in ended.stderr and "Traceback" not in ended.stderr, ended.stderr


def test_a_full_scratch_disk(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path / 'store'}")
    lock = locked_prepare(store, tmp_path)
    words = ["stage", "prepare", "--store", store.url, "--run", lock.run_id]
    disk = tmp_path / "scratch"
    ended = twice(words, disk, "size=24k", "size=64m", HANFORGE_SCRATCH=str(disk))
    assert_clear(ended, "no space left on the disk")
    assert manifest_of(store, lock).content("rows") == calm_prepare(tmp_path).content("rows")


def test_a_full_store_disk(tmp_path: Path) -> None:
    seed = tmp_path / "seed"
    disk = tmp_path / "disk"
    lock = locked_prepare(Store(f"file://{seed}"), tmp_path)
    words = ["stage", "prepare", "--store", f"file://{disk}", "--run", lock.run_id]
    ended = twice(words, disk, "size=128k", "size=64m", SEED_STORE=str(seed))
    assert_clear(ended, "no space left on the disk")
    assert manifest_of(Store(f"file://{seed}"), lock).content("rows") == calm_prepare(tmp_path).content("rows")


def test_a_full_cache_disk(tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """No inode is left in the middle of a checkpoint: what was fetched is taken away again."""
    use_s3(monkeypatch, s3.environment())
    store = Store(f"s3://{s3.new_bucket()}/store")
    for file in bare_checkpoint(tmp_path / "model").iterdir():
        store.put(f"model/{file.name}", file.read_bytes() or b"weights")
    with openai_server("--model", "model") as server:
        settings = {
            "kind": "evaluate", "model": f"{store.url}/model", "questions": "agv", "thinking": "on",
            "endpoint": server.url, "client": {"concurrency": 8},
        }  # fmt: skip
        lock = create_run(store, resolve(store, Recipe(name="full", stages={"scores": settings})))
        words = ["stage", "scores", "--store", store.url, "--run", lock.run_id]
        disk = tmp_path / "cache"
        ended = twice(words, disk, "size=1m,nr_inodes=8", "size=64m,nr_inodes=1000", HANFORGE_CACHE=str(disk))
    assert_clear(ended, f"no space left on the disk of the cache {disk}")
    assert manifest_of(store, lock, "scores").counts.ok > 0
