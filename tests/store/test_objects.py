"""The store under hostile conditions: races, lost answers, cut answers, killed writers, refused and missing things."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Trouble, UserError
from pipeline.store.objects import Store
from pipeline.store.probe import open_store
from tests.conftest import use_s3
from tests.servers.faulty_proxy import FaultyProxy
from tests.servers.s3 import S3Server

RACERS = 16
ROUNDS = 3


def test_objects_are_written_read_listed_and_deleted(store_url: str) -> None:
    store = open_store(store_url)
    assert store.exclusive and store.list("") == []
    assert store.create("a/one", b"1") and not store.create("a/one", b"2") and store.create("a/one", b"1")
    store.put("a/b/two", b"22")
    store.put("a/b/two", b"222")
    store.create("a/empty", b"")
    assert (store.read("a/one"), store.read("a/b/two"), store.read("a/empty")) == (b"1", b"222", b"")
    assert [(entry.key, entry.size) for entry in store.list("a")] == [("a/b/two", 3), ("a/empty", 0), ("a/one", 1)]
    assert store.folders("a") == ["b", "empty", "one"] and store.folders("nowhere") == [] and store.list("no") == []
    assert store.exists("a/one") and not store.exists("a/b") and not store.exists("a/three")
    store.delete("a/one")
    store.delete("a/one")
    with pytest.raises(FileNotFoundError):
        store.read("a/one")


def test_files_go_up_and_down_whole(store_url: str, tmp_path: Path) -> None:
    store = Store(store_url)
    content = os.urandom(3_000_001)
    (tmp_path / "up").write_bytes(content)
    store.upload("x/file", tmp_path / "up")
    store.download("x/file", tmp_path / "deep" / "down")
    assert (tmp_path / "deep" / "down").read_bytes() == content
    with pytest.raises(FileNotFoundError):
        store.download("x/nothing", tmp_path / "other")


def test_many_objects_are_listed_to_the_last(s3_store_url: str) -> None:
    store = Store(s3_store_url)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: store.put(f"many/{number:05d}", b"x"), range(1005)))  # S3 lists 1000 at a time
    assert [entry.key for entry in store.list("many")] == [f"many/{number:05d}" for number in range(1005)]


def _race(url: str, barrier: Any, results: Any) -> None:
    store = Store(url)
    store.exists("warm")
    for number in range(ROUNDS):
        barrier.wait(60)
        results.put((number, store.create(f"race/{number}", os.urandom(16))))


def test_sixteen_processes_that_create_one_object_have_one_winner(store_url: str) -> None:
    store = Store(store_url)
    store.exists("anything")  # the parent has connections and an event loop: its forked children must not use them
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(RACERS), context.Queue()
    racers = [context.Process(target=_race, args=(store_url, barrier, results)) for _ in range(RACERS)]
    for racer in racers:
        racer.start()
    outcomes = [results.get(timeout=100) for _ in range(RACERS * ROUNDS)]
    for racer in racers:
        racer.join(20)
    assert Counter(number for number, won in outcomes if won) == dict.fromkeys(range(ROUNDS), 1)


def test_a_lost_answer_to_ones_own_create_is_a_success(s3: S3Server, faulty_s3: FaultyProxy) -> None:
    store = Store(f"s3://{s3.new_bucket()}/store")
    faulty_s3.plan("lost", "PUT", "plan.json")
    assert store.create("plan.json", b"mine") is True
    assert faulty_s3.counts["lost"] == 1 and store.read("plan.json") == b"mine"
    faulty_s3.plan("lost", "PUT", "plan.json")
    assert store.create("plan.json", b"other") is False


def test_the_probe_survives_a_lost_answer(s3: S3Server, faulty_s3: FaultyProxy) -> None:
    faulty_s3.plan("lost", "PUT", ".probe", times=1)
    assert open_store(f"s3://{s3.new_bucket()}/store").exclusive
    assert faulty_s3.counts["lost"] == 1


@pytest.mark.parametrize("kind", ["error", "slowdown", "lost", "cut"])
def test_every_call_outlasts_a_passing_fault(s3: S3Server, faulty_s3: FaultyProxy, tmp_path: Path, kind: str) -> None:
    store = Store(f"s3://{s3.new_bucket()}/store")
    content = os.urandom(200_000)
    (tmp_path / "file").write_bytes(content)
    for method in ("PUT", "GET", "HEAD"):
        faulty_s3.plan(kind, method)
    assert store.create("a", content)
    store.put("b", content)
    store.upload("c", tmp_path / "file")
    assert store.exists("a") and len(store.list("")) == 3
    faulty_s3.plan(kind, "GET", "/a", times=2)
    assert store.read("a") == content
    faulty_s3.plan(kind, "GET", "/b")
    store.download("b", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content == store.read("c")
    faulty_s3.plan(kind, "DELETE", times=1)
    faulty_s3.plan(kind, "POST", times=1)
    store.delete("a")
    assert not store.exists("a")


def test_a_large_upload_outlasts_faults_at_its_completion(
    s3: S3Server, faulty_s3: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of 5 MiB; the answer to the completing request is lost, and the retry finds no such upload any more."""
    store = Store(f"s3://{s3.new_bucket()}/store")
    content = os.urandom(11 * 2**20)
    (tmp_path / "file").write_bytes(content)
    put_file = store.filesystem.put_file
    monkeypatch.setattr(store.filesystem, "put_file", lambda *a, **k: put_file(*a, **{**k, "chunksize": 5 * 2**20}))
    for method in ("PUT", "POST"):
        faulty_s3.plan("lost", method, "big", times=2)
    faulty_s3.plan("cut", "POST", "uploadId")
    store.upload("big", tmp_path / "file")
    assert store.read("big") == content


def test_a_fault_that_lasts_is_trouble_and_names_the_object(
    s3: S3Server, faulty_s3: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANFORGE_STORE_PATIENCE", "1")
    store = Store(f"s3://{s3.new_bucket()}/store")
    faulty_s3.kinds, faulty_s3.rate = ("slowdown",), 1.0
    with pytest.raises(Trouble, match=r"cannot read s3://.*/store/some/key"):
        store.read("some/key")


def test_a_bucket_that_vanishes_is_trouble_and_no_missing_file(
    s3_store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANFORGE_STORE_PATIENCE", "1")
    store = Store("s3://it-was-deleted-meanwhile/store")
    for write in (lambda: store.put("x", b"1"), lambda: store.create("x", b"1")):
        with pytest.raises(Trouble):
            write()


def test_what_is_wrong_at_the_start_is_said_at_once(
    s3: S3Server, s3_store_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket, readonly = s3.new_bucket(), s3.new_bucket("readonly-")
    began = time.monotonic()
    with pytest.raises(UserError, match="does not exist"):
        open_store("s3://no-such-bucket-here/store")
    with pytest.raises(UserError, match="refused the credentials"):
        open_store(f"s3://{readonly}/store")
    for key in ("refused", "expired"):
        use_s3(monkeypatch, s3.environment(access_key=key))
        with pytest.raises(UserError, match="refused the credentials"):
            open_store(f"s3://{bucket}/store")
    use_s3(monkeypatch, s3.environment("http://127.0.0.1:9"))
    with pytest.raises(UserError, match="nothing answers at the store's endpoint"):
        open_store(f"s3://{bucket}/store")
    environment = {name: value for name, value in s3.environment().items() if "KEY" not in name}
    use_s3(monkeypatch, environment)
    with pytest.raises(UserError, match="no credentials"):
        open_store(f"s3://{bucket}/store")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        open_store(str(tmp_path / "file" / "store"))
    for wrong in ("", "nope://x/y"):
        with pytest.raises(UserError):
            open_store(wrong)
    assert time.monotonic() - began < 60  # none of them waited for the retries' patience of 120 s


def test_a_store_that_ignores_conditions_is_found_out(s3: S3Server, s3_store_url: str) -> None:
    store = open_store(f"s3://{s3.new_bucket('unconditional-')}/store")
    assert not store.exclusive
    assert store.create("a", b"1") and not store.create("a", b"2") and store.read("a") == b"1"


WRITER = """
import os, sys
from pathlib import Path
from pipeline.store.objects import Store
store = Store(sys.argv[1])
print("ready", flush=True)
number = 0
while True:
    content = bytes([number % 251]) * 3_000_000
    store.create(f"created/{number}", content)
    store.put("overwritten", content)
    local = Path(sys.argv[2]); local.write_bytes(content)
    store.upload(f"uploaded/{number}", local)
    number += 1
"""


@pytest.mark.crash
def test_a_killed_writer_leaves_only_whole_objects(tmp_path: Path) -> None:
    url = f"file://{tmp_path / 'store'}"
    store = Store(url)
    for kill in range(8):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, url, str(tmp_path / "local")], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
        time.sleep(0.02 + 0.013 * kill)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        for entry in [*store.list("created"), *store.list("uploaded"), *store.list("overwritten")]:
            content = store.read(entry.key)
            assert len(content) == 3_000_000 and len(set(content)) == 1, entry
    assert store.list("created")
