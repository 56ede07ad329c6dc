"""The crash campaign: SIGKILL at random instants over train and merge, on file:// and on a real S3 API of which 5 % of
the answers fail, are cut or get lost. The same bytes as an undisturbed run, or it fails. `test_pods.py` does it to the
data stages.

HANFORGE_CRASH_SEED chooses the instants, HANFORGE_CRASH_KILLS how many there are at the least (24).
"""

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.recipe.load import load_recipe
from pipeline.store.commit import Manifest
from pipeline.store.objects import Store
from pipeline.store.pins import resolve
from pipeline.store.runs import RunLock, create_run, find_run
from tests.conftest import use_s3
from tests.crash.nursery import DATA, TRAINING, Nursery
from tests.crash.pods import raw_rows
from tests.servers.faulty_proxy import faulty_proxy
from tests.servers.s3 import S3Server
from tests.training import checkpoints

SEED = int(os.environ.get("HANFORGE_CRASH_SEED", "1"))
KILLS = int(os.environ.get("HANFORGE_CRASH_KILLS", "24"))
STAGES = ("prepare", "phase1", "merge1")
KILLED = ("phase1", "merge1")
RECIPE = """\
name: campaign
inputs: {raw: {}}
stages:
  prepare: {kind: prepare, source: {input: raw}, target_samples: 600, shard_rows: 50, workers: 2}
  phase1:
    kind: train
    base: BASE
    data: {stage: prepare}
    max_length: 256
    max_steps: 12
    per_device_train_batch_size: 2
    gradient_accumulation_steps: 1
    learning_rate: 1e-3
    save_steps: 2
    logging_steps: 2
    gradient_checkpointing: false
    lora: {r: 4, lora_dropout: 0.1}
  merge1: {kind: merge, base: BASE, adapter: {stage: phase1}, max_shard_gib: 0.0001}
"""


@dataclass
class World:
    """An undisturbed run that everything is compared with, and what starts processes."""

    nursery: Nursery
    calm: Store
    lock: RunLock
    seconds: dict[str, float] = field(default_factory=dict)

    def command(self, store: Store, stage: str) -> list[str]:
        return ["stage", stage, "--store", store.url, "--run", self.lock.run_id]

    def manifest(self, store: Store, stage: str) -> Manifest | None:
        return self.lock.directory(store, stage).manifest()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Every stage done once without a disturbance, and how long each took."""
    folder = tmp_path_factory.mktemp("campaign")
    raw_rows(folder / "raw", ("alpha", "beta", "gamma"), 300)
    base = checkpoints.qwen3(folder / "base")
    recipe = folder / "campaign.yaml"
    recipe.write_text(RECIPE.replace("BASE", str(base)), "utf-8")
    calm = Store(f"file://{folder / 'calm'}")
    lock = create_run(calm, resolve(calm, load_recipe(str(recipe)), {"raw": str(folder / "raw")}))
    with Nursery(folder / "logs", (*TRAINING, *DATA)) as nursery:
        made = World(nursery, calm, lock)
        for stage in STAGES:
            began = time.monotonic()
            child = nursery.start(made.command(calm, stage), settings(folder))
            assert child.ended() == 0, child.log()
            made.seconds[stage] = time.monotonic() - began
        yield made


def settings(folder: Path) -> dict[str, str]:
    """The environment of every process: one thread, a cache of its own."""
    names = [name for name in os.environ if name.startswith("AWS_")]
    return {
        **{name: os.environ[name] for name in names},
        "HANFORGE_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }


def before(world: World, store: Store, stage: str) -> None:
    """Give a fresh store the lock and every stage that `stage` needs, from the undisturbed run."""
    store.put(f"runs/{world.lock.run_id}.json", world.calm.read(f"runs/{world.lock.run_id}.json"))
    needed = set(world.lock.stages[stage].needs)
    for name in reversed(STAGES):
        if name in needed:
            needed |= set(world.lock.stages[name].needs)
            for entry in world.calm.list(world.lock.directory(world.calm, name).prefix):
                if "/checkpoints/" not in entry.key and "/lease/" not in entry.key:
                    store.put(entry.key, world.calm.read(entry.key))


def killed_until_done(world: World, store: Store, stage: str, rng: random.Random, folder: Path) -> int:
    """Start the stage again and again, killing it at random instants, until it is done; gives the kills."""
    before(world, store, stage)
    kills = 0
    while world.manifest(store, stage) is None:
        # late instants grow likelier with the kills, so that it ends
        delay = rng.random() * world.seconds[stage] * (1.0 + 0.15 * kills)
        began = time.monotonic()
        child = world.nursery.start(world.command(store, stage), settings(folder))
        timer = threading.Timer(delay, child.signal, (signal.SIGKILL,))
        timer.start()
        code = child.ended()
        timer.cancel()
        assert code in (0, -signal.SIGKILL), child.log()
        kills += code == -signal.SIGKILL
        if kills == 0:  # the machine was busier when the undisturbed run was timed
            world.seconds[stage] = min(world.seconds[stage], time.monotonic() - began)
    return kills


def assert_same(world: World, store: Store, stage: str) -> None:
    """The manifest says the same bytes and counts as the undisturbed one, and the parts are what it says."""
    calm, shaken = world.manifest(world.calm, stage), world.manifest(store, stage)
    assert calm is not None and shaken is not None
    assert calm.counts == shaken.counts and shaken.counts.balanced()
    for output in calm.outputs:
        for one, other in zip(calm.outputs[output], shaken.outputs[output], strict=True):
            assert world.calm.read(one.key) == store.read(other.key), (stage, output, one.key, other.key)
        assert calm.content(output) == shaken.content(output), (stage, output)


@pytest.mark.crash
@pytest.mark.parametrize("where", ["file", "s3"])
@pytest.mark.parametrize("stage", KILLED)
def test_killed_at_random_instants_gives_the_same_bytes(
    world: World, s3: S3Server, stage: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(f"{SEED}-{stage}-{where}")
    goal = -(-KILLS // (2 * len(KILLED)))
    kills = rounds = 0
    with faulty_proxy(s3.endpoint, rate=0.05, seed=SEED) as proxy:
        use_s3(monkeypatch, s3.environment(proxy.address))
        while kills < goal:
            url = f"file://{tmp_path / f'round{rounds}'}" if where == "file" else f"s3://{s3.new_bucket()}/store"
            store = Store(url)
            new = killed_until_done(world, store, stage, rng, tmp_path)
            assert_same(world, store, stage)
            assert find_run(store, world.lock.run_id) == world.lock
            kills, rounds = kills + new, rounds + 1
    print(f"{stage} on {where}: {kills} kills in {rounds} rounds, the same bytes")
