"""The data stages as the pods of an Indexed Job: an undisturbed world to compare with, and processes to disturb.

Everything is small and seeded, with as many units as eight processes can quarrel about. What is looked at is exit codes
and the store, nothing else.
"""

import os
import random
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from pipeline.recipe.load import load_recipe
from pipeline.store.commit import Manifest
from pipeline.store.objects import Store
from pipeline.store.pins import resolve
from pipeline.store.runs import RunLock, create_run
from pipeline.store.shards import checked
from tests.crash.nursery import Child, Nursery
from tests.engine.tiny import bare_checkpoint
from tests.servers.openai_endpoint import OpenAIServer, openai_server

STAGES = ("prepare", "augment", "validate", "evaluate")
RECIPE = """\
name: pods
inputs: {raw: {}, reasoned: {}, asked: {}}
stages:
  prepare:
    {kind: prepare, source: {input: raw}, target_samples: 420, heldout: {rows: 30}, shard_rows: 20, workers: 1}
  augment:
    kind: augment
    source: {stage: prepare}
    teacher: {served_model_name: teacher}
    sample_ratio: 1.0
    unit_rows: 24
    flush_rows: 8
    flush_seconds: 0.5
    takeover_seconds: 3
    prompt: "{question}"
    client: {concurrency: 8, wait_initial_seconds: 0.02, wait_max_seconds: 0.1, attempts: 6}
  validate: {kind: validate, source: {input: reasoned}}
  evaluate:
    kind: evaluate
    model: MODEL
    data: {input: asked}
    questions: agv
    unit_rows: 12
    served_model_name: teacher
    client: {concurrency: 8, wait_initial_seconds: 0.02, wait_max_seconds: 0.1, attempts: 6}
"""


@dataclass
class World:
    """Every stage done once by one undisturbed process, and how many seconds each took."""

    folder: Path
    nursery: Nursery
    teacher: OpenAIServer
    calm: Store
    lock: RunLock
    seconds: dict[str, float] = field(default_factory=dict)

    def start(self, store: Store, stage: str, index: int = 0, of: int = 1, hours: float = 0.0) -> Child:
        """One pod of a stage, with the clients' environment as it is in this process now."""
        words = ["stage", stage, "--store", store.url, "--run", self.lock.run_id]
        words += ["--index", str(index), "--of", str(of)]
        environment = {
            **{name: value for name, value in os.environ.items() if name.startswith("AWS_")},
            "HANFORGE_TEACHER_ENDPOINT": self.teacher.url,
            "HANFORGE_EVALUATE_ENDPOINT": self.teacher.url,
            "HANFORGE_CACHE": str(self.folder / "cache"),
            "OMP_NUM_THREADS": "1",
        }
        return self.nursery.start(words, environment, hours)

    def manifest(self, store: Store, stage: str) -> Manifest | None:
        return self.lock.directory(store, stage).manifest()

    def before(self, store: Store, stage: str) -> None:
        """Give a fresh store the lock and what `stage` reads, from the undisturbed run."""
        store.put(f"runs/{self.lock.run_id}.json", self.calm.read(f"runs/{self.lock.run_id}.json"))
        for name in self.lock.stages[stage].needs:
            for entry in self.calm.list(self.lock.directory(self.calm, name).prefix):
                store.put(entry.key, self.calm.read(entry.key))

    def assert_same(self, store: Store, stage: str) -> None:
        """The manifest says the same contents and counts as the undisturbed one, and tells the truth.

        So do the measurements, except for a teacher's times.
        """
        calm, shaken = self.manifest(self.calm, stage), self.manifest(store, stage)
        assert calm is not None and shaken is not None
        assert calm.counts == shaken.counts and shaken.counts.balanced()
        assert stage == "augment" or calm.measurements == shaken.measurements
        for output in calm.outputs:
            assert calm.content(output) == shaken.content(output), (stage, output)
            for part in shaken.outputs[output]:
                checked(store.read(part.key), part)

    def doubled(self, store: Store, stage: str) -> int:
        """How many parts were written for nothing, because somebody else had committed their unit."""
        manifest, directory = self.manifest(store, stage), self.lock.directory(store, stage)
        assert manifest is not None
        named = {part.key for parts in manifest.outputs.values() for part in parts}
        return len({entry.key for entry in store.list(directory.key("parts"))} - named)


@contextmanager
def undisturbed(folder: Path) -> Iterator[World]:
    """The world after every stage was done once, on a local store, by one process."""
    raw_rows(folder / "raw", [f"part{number:02d}" for number in range(16)], 40)
    reasoned_rows(folder / "reasoned")
    asked_rows(folder / "asked")
    recipe = folder / "pods.yaml"
    recipe.write_text(RECIPE.replace("MODEL", str(bare_checkpoint(folder / "model"))), "utf-8")
    calm = Store(f"file://{folder / 'calm'}")
    inputs = {name: str(folder / name) for name in ("raw", "reasoned", "asked")}
    lock = create_run(calm, resolve(calm, load_recipe(str(recipe)), inputs))
    with openai_server() as teacher, Nursery(folder / "logs") as nursery:
        world = World(folder, nursery, teacher, calm, lock)
        for stage in STAGES:
            began = time.monotonic()
            child = world.start(calm, stage)
            assert child.ended() == 0, child.log()
            world.seconds[stage] = time.monotonic() - began
        yield world


@dataclass
class Killed:
    """What a campaign did: kills by SIGKILL, processes started, parts written for nothing."""

    kills: int = 0
    started: int = 0
    doubled: int = 0


def killed_until_done(
    world: World, store: Store, stage: str, of: int, kills: int, rng: random.Random, work: Callable[[], int], most: int
) -> Killed:
    """Keep `of` pods going and kill random ones, up to `kills`, until all pods have ended well.

    `work` says how much has been done, in requests to the store or objects in it, and a kill comes after 1 to `most`
    more of it: so kills fall all over the work however slow the machine is.
    """
    world.before(store, stage)
    found = Killed()
    pods: dict[int, Child] = {}
    open_indices = set(range(of))
    next_kill = work() + rng.randint(1, most)
    while open_indices:
        for index in sorted(open_indices - set(pods)):
            pods[index] = world.start(store, stage, index, of)
            found.started += 1
        time.sleep(0.002)
        if found.kills < kills and work() >= next_kill:
            next_kill = work() + rng.randint(1, most)
            doomed = pods[rng.choice(sorted(pods))]
            doomed.signal(signal.SIGKILL)
            found.kills += doomed.ended() == -signal.SIGKILL
        for index, pod in list(pods.items()):
            if pod.has_ended():
                code = pod.ended()
                assert code in (0, -signal.SIGKILL), pod.log()
                del pods[index]
                open_indices -= {index} if code == 0 else set()
    found.doubled = world.doubled(store, stage)
    return found


def raw_rows(folder: Path, names: Iterable[str], rows: int) -> None:
    """A file for each name with so many rows: sums in Korean, among them duplicates, Chinese rows and broken lines."""
    folder.mkdir(parents=True)
    rng = random.Random(7)
    for name in names:
        lines = []
        for _ in range(rows):
            kind = rng.random()
            question = f"{rng.randrange(10_000)} 더하기 {rng.randrange(10_000)}은 얼마입니까?"
            row = {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": "답입니다."}]}
            if kind < 0.05:
                row["messages"][1]["content"] = "你好，这是一个完整的中文句子。"
            lines.append(b"{broken" if kind > 0.97 else orjson.dumps(row))
            if 0.05 < kind < 0.08:
                lines.append(lines[-1])
        (folder / f"{name}.jsonl").write_bytes(b"\n".join(lines) + b"\n")


def reasoned_rows(folder: Path, files: int = 24) -> None:
    """Files of 30 rows with reasoning, some of them without tags or broken: what validate looks at."""
    folder.mkdir(parents=True)
    rng = random.Random(8)
    for number in range(files):
        lines = []
        for _ in range(30):
            one, other = rng.randrange(1000), rng.randrange(1000)
            steps = f"1단계: {one}에 {other}를 더합니다.\n2단계: 값은 {one + other}입니다."
            answer = f"<think>\n{steps}\n</think>\n\n정답: {one + other}"
            if rng.random() < 0.1:
                answer = f"정답: {one + other}"
            turns = [{"role": "user", "content": f"{one} 더하기 {other}?"}, {"role": "assistant", "content": answer}]
            lines.append(b"[1, 2" if rng.random() < 0.02 else orjson.dumps({"messages": turns, "source": "sums"}))
        (folder / f"reasoned{number:02d}.jsonl").write_bytes(b"\n".join(lines) + b"\n")


def asked_rows(folder: Path) -> None:
    """One file of 60 held-out questions with known answers."""
    folder.mkdir(parents=True)
    lines = []
    for number in range(60):
        turns = [{"role": "user", "content": f"{number} 더하기 {number + 1}?"}]
        turns.append({"role": "assistant", "content": str(2 * number + 1)})
        lines.append(orjson.dumps({"messages": turns, "source": f"s{number % 2}", "id": f"{number:032x}"}))
    (folder / "asked.jsonl").write_bytes(b"\n".join(lines) + b"\n")
