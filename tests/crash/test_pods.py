"""Many pods of one stage on a real S3 API of which 10 % of the calls fail: killed, doubled, stopped, slow, with clocks
that are hours off. The same bytes as one undisturbed process, or it fails.

HANFORGE_CRASH_SEED chooses the instants; HANFORGE_CRASH_PODS is how many processes work at once (2), and
HANFORGE_CRASH_POD_KILLS how many of them are killed at the least, by kind (10). `make crash-test` runs 8 and 48, and
then answers come up to 5 s late.
"""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.store.objects import Store
from tests.conftest import use_s3
from tests.crash.pods import STAGES, Killed, World, killed_until_done, undisturbed
from tests.servers.faulty_proxy import FaultyProxy, faulty_proxy
from tests.servers.s3 import S3Server

SEED = int(os.environ.get("HANFORGE_CRASH_SEED", "1"))
PODS = int(os.environ.get("HANFORGE_CRASH_PODS", "2"))
KILLS = int(os.environ.get("HANFORGE_CRASH_POD_KILLS", "10"))
FAILING = 0.10
DELAY_SECONDS = 5.0 if PODS >= 8 else 0.3
pytestmark = pytest.mark.crash


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with undisturbed(tmp_path_factory.mktemp("pods")) as made:
        yield made


def fresh(s3: S3Server) -> Store:
    """A store in a bucket of its own."""
    return Store(f"s3://{s3.new_bucket()}/store")


@pytest.mark.parametrize("where", ["file", "s3"])
@pytest.mark.parametrize("stage", STAGES)
def test_pods_killed_at_random_on_a_failing_store_give_the_same_bytes(
    world: World, s3: S3Server, stage: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(f"{SEED}-{stage}-{where}")
    total, rounds = Killed(), 0
    goal = -(-KILLS // 2)
    with faulty_proxy(s3.endpoint, FAILING, seed=SEED) as proxy:
        proxy.most_delay_seconds = DELAY_SECONDS
        use_s3(monkeypatch, s3.environment(proxy.address))
        while total.kills < goal:
            store = fresh(s3) if where == "s3" else Store(f"file://{tmp_path / f'round{rounds}'}")
            work, most = (lambda: proxy.requests, 12 * PODS) if where == "s3" else (objects_in(store, world, stage), 8)
            found = killed_until_done(world, store, stage, PODS, goal - total.kills, rng, work, most)
            world.assert_same(store, stage)
            total = Killed(*(a + b for a, b in zip(vars(total).values(), vars(found).values(), strict=True)))
            rounds += 1
    faults = {kind: count for kind, count in sorted(proxy.counts.items()) if kind != "ok"}
    print(
        f"{stage} on {where}: {PODS} pods at once, {total.kills} kills in {rounds} rounds, {total.started} processes, "
        f"{total.doubled} parts written twice; {proxy.requests} requests, {sum(faults.values())} failed {faults}"
    )


def objects_in(store: Store, world: World, stage: str) -> Callable[[], int]:
    """Counts what a stage has written so far."""
    prefix = world.lock.directory(store, stage).prefix
    return lambda: len(store.list(prefix))


@pytest.mark.parametrize("stage", STAGES)
def test_a_doubled_index_a_stopped_pod_and_wrong_clocks_do_no_harm(world: World, s3_store_url: str, stage: str) -> None:
    """Two pods of index 0, one of them asleep from a random instant until after the commit; nobody has index 1, and
    the wall clocks of the two that work are 31 hours behind and 7 ahead."""
    rng = random.Random(f"{SEED}-{stage}-odd")
    store, answered = Store(s3_store_url), answers(world)
    world.before(store, stage)
    sleeper = world.start(store, stage, 0, 3)
    begun = rng.randint(2, 12)  # objects that it has written by then: less than half of any stage's
    while len(store.list(world.lock.directory(store, stage).prefix)) < begun:
        assert not sleeper.has_ended(), sleeper.log()
        time.sleep(0.01)
    sleeper.signal(signal.SIGSTOP)
    pods = [world.start(store, stage, 0, 3, hours=-31.0), world.start(store, stage, 2, 3, hours=7.0)]
    assert [pod.ended() for pod in pods] == [0, 0], pods[0].log() + pods[1].log()
    manifest = store.read(world.lock.directory(store, stage).key("_MANIFEST.json"))
    assert not sleeper.has_ended()
    sleeper.signal(signal.SIGCONT)
    assert sleeper.ended() == 0, sleeper.log()
    assert store.read(world.lock.directory(store, stage).key("_MANIFEST.json")) == manifest
    world.assert_same(store, stage)
    print(
        f"{stage}: a pod asleep from its object {begun} until after the commit; {world.doubled(store, stage)} parts "
        f"written twice, {answers(world) - answered} answers paid"
    )


def answers(world: World) -> int:
    """How many answers the endpoint has given so far."""
    return sum(world.teacher.stats()["answered"].values())


def held_writes(stage: str) -> list[tuple[str, str]]:
    """Which writes of a stage are held: the plan, a unit's part, a unit's commit, the manifest; answers of augment."""
    names = ["plan.json", "parts/", "done/", "_MANIFEST.json", *(["answers/"] if stage == "augment" else [])]
    return [(stage, name) for name in names]


HELD = [pair for stage in STAGES for pair in held_writes(stage)] if PODS >= 8 else [("prepare", "done/")]


@pytest.mark.parametrize(("stage", "name"), HELD)
def test_a_write_that_arrives_after_the_commit_changes_nothing(
    world: World, s3: S3Server, faulty_s3: FaultyProxy, stage: str, name: str
) -> None:
    """A pod dies while one of its writes is under way; others commit the stage; then the write arrives."""
    store = fresh(s3)
    world.before(store, stage)
    faulty_s3.plan("held", "PUT", name)
    slow = world.start(store, stage, 0, 2)
    while not faulty_s3.counts["held"]:
        assert not slow.has_ended(), slow.log()
        time.sleep(0.02)
    slow.signal(signal.SIGKILL)
    assert slow.ended() == -signal.SIGKILL
    other = world.start(store, stage, 1, 2)
    assert other.ended() == 0, other.log()
    directory = world.lock.directory(store, stage)
    fixed = ["plan.json", "_MANIFEST.json", *(f"done/{unit}.json" for unit in directory.done_names())]
    written = {directory.key(name): store.read(directory.key(name)) for name in fixed}
    arrived = faulty_s3.arrived
    faulty_s3.release()
    while faulty_s3.arrived == arrived:
        time.sleep(0.02)
    assert {key: store.read(key) for key in written} == written
    world.assert_same(store, stage)
