"""The lease: one writer at a time, a dead one is replaced at once on its own machine, a still one after its time."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.errors import Stopped, Trouble
from pipeline.store.commit import Counts, StageDirectory
from pipeline.store.lease import Lease, may_live, process_identity
from pipeline.store.objects import Store
from pipeline.store.stop import StopFlag


@pytest.fixture(autouse=True)
def _short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANFORGE_LEASE_SECONDS", "1.5")


def directory(url: str) -> StageDirectory:
    return StageDirectory(Store(url), "train", "a" * 32)


HOLDER = """
import sys, time
from pipeline.store.commit import StageDirectory
from pipeline.store.lease import Lease
from pipeline.store.objects import Store
from pipeline.store.stop import StopFlag
lease = Lease(StageDirectory(Store(sys.argv[1]), "train", "a" * 32), StopFlag()).__enter__()
print(lease.epoch, flush=True)
time.sleep(60)
"""


def test_a_killed_holder_is_replaced(store_url: str) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, store_url], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "1\n"
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with Lease(directory(store_url), StopFlag()) as lease:
        assert lease.epoch == 2 and not lease.adopted
        lease.check()


def test_a_living_holder_is_waited_for_and_its_release_is_seen(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANFORGE_LEASE_SECONDS", "3")
    first = Lease(directory(store_url), StopFlag())
    first.__enter__()
    epochs: list[int] = []

    def wait() -> None:
        with Lease(directory(store_url), StopFlag()) as second:
            epochs.append(second.epoch)

    waiter = threading.Thread(target=wait)
    waiter.start()
    time.sleep(3.5)  # longer than a lease: the heartbeat keeps it
    assert epochs == []
    first.check()
    first.__exit__(None, None, None)
    waiter.join(20)
    assert epochs == [2]


def test_a_holder_that_stood_still_learns_that_it_was_superseded(store_url: str) -> None:
    asleep = Lease(directory(store_url), StopFlag())
    asleep.__enter__()
    asleep._ended.set()  # its heartbeat stops: the process is frozen
    with Lease(directory(store_url), StopFlag()) as successor:
        assert successor.epoch == 2
        with pytest.raises(Trouble, match="writer 2 took over from writer 1"):
            asleep.check()
        successor.check()


def test_whoever_waits_adopts_what_the_holder_finished(store_url: str) -> None:
    first = Lease(directory(store_url), StopFlag())
    first.__enter__()
    stage = directory(store_url)
    stage.commit_unit("0", {}, Counts())
    stage.commit_manifest(["0"])
    with Lease(directory(store_url), StopFlag()) as second:
        assert second.adopted
    first.__exit__(None, None, None)


def test_a_waiting_process_stops_when_asked(store_url: str) -> None:
    first = Lease(directory(store_url), StopFlag())
    first.__enter__()
    stop = StopFlag()
    threading.Timer(0.3, stop.request).start()
    with pytest.raises(Stopped), Lease(directory(store_url), stop):
        raise AssertionError("the lease was given to two")
    first.__exit__(None, None, None)


def test_many_that_wait_get_it_one_after_the_other(store_url: str) -> None:
    inside, most, epochs = 0, 0, []
    lock = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        with Lease(directory(store_url), StopFlag()) as lease:
            with lock:
                inside += 1
                most = max(most, inside)
                epochs.append(lease.epoch)
            time.sleep(0.05)
            lease.check()
            with lock:
                inside -= 1

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert most == 1 and sorted(epochs) == [1, 2, 3, 4]


def test_a_process_of_this_machine_is_known_to_be_gone(tmp_path: Path) -> None:
    mine = process_identity()
    assert may_live(mine)
    assert not may_live({**mine, "started": "1"})  # the pid was given to another process
    assert may_live({**mine, "machine": "another boot", "started": "1"})  # only its heartbeat can tell
