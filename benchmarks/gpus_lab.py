"""What benchmarks/gpus.py trains: a random base of a real shape, Korean rows, and one stage after another over them."""

import argparse
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from random_model import random_model, tiny
from ruamel.yaml import YAML
from train import CASES

from pipeline.recipe.known_models import known_config
from pipeline.recipe.load import load_recipe
from pipeline.store.objects import Store
from pipeline.store.pins import resolve
from pipeline.store.progress import read_metrics
from pipeline.store.runs import create_run
from pipeline.store.stage import Stage
from tests.training.checkpoints import tokenizer

ROOT = Path(__file__).resolve().parents[1]
WARM_STEPS = 4


@dataclass
class Trained:
    """What one training did: exit codes, each step's loss, speed, and the most that nvidia-smi saw on each card."""

    name: str
    processes: int
    rows: int
    codes: list[int] = field(default_factory=list)
    seconds: float = 0.0
    losses: dict[int, float] = field(default_factory=dict)
    tokens_per_second: float = float("nan")
    step_tokens: float = float("nan")
    torch_gib: float = float("nan")
    card_gib: list[float] = field(default_factory=list)
    adapter: Path | None = None
    log: Path | None = None


class Lab:
    """A folder with the base and the rows, and the trainings over them."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments, self.folder = arguments, folder
        self.device = "cpu" if arguments.tiny else "cuda"
        self.began = time.monotonic()
        self.runs: list[Trained] = []
        self.checks: list[tuple[str, bool]] = []
        self.settings: dict[str, Any] = {**CASES[arguments.case].settings, "quantization": "none"}
        if arguments.tiny:
            self.settings["max_length"] = 512

    def stage(self, name: str, processes: int, nodes: int = 1, **changed: Any) -> Stage:
        """The stage `train` of a run in a store of its own."""
        folder = self.folder / name
        folder.mkdir()
        settings = {
            **self.settings,
            "kind": "train",
            "base": str(self.folder / "base"),
            "data": {"input": "rows"},
            "max_steps": self.arguments.steps,
            "logging_steps": 1,
            "save_steps": None,
            "save_seconds": None,
            "report_to": [],
            **changed,
        }
        recipe, profiles = folder / "recipe.yaml", folder / "profiles.yaml"
        _write(recipe, {"name": "gpus", "inputs": {"rows": {}}, "stages": {"train": settings}})
        on_node = processes // nodes
        profile: dict[str, Any] = {"precision": "fp32", "threads": 1, "processes": on_node, "nodes": nodes}
        if self.device == "cuda":
            card = {"name": "card", "count": on_node, "memory_gib": 1000, "compute_capability": [9, 0]}
            profile = {"precision": "bf16", "attention": "varlen", "gpu": card, "nodes": nodes}
        _write(profiles, {"cards": profile})
        store = Store(f"file://{folder}/store")
        lock = resolve(
            store,
            load_recipe(str(recipe)),
            overrides={"rows": str(self.folder / "rows")},
            profile="cards",
            profiles_file=str(profiles),
        )
        return Stage(store, create_run(store, lock), "train")

    def start(
        self, stage: Stage, environment: dict[str, str], node: int = 0, nodes: int = 1, *, deterministic: bool = False
    ) -> "subprocess.Popen[bytes]":
        """`hanforge stage train` as one of `nodes`; `deterministic`: under PyTorch's deterministic algorithms."""
        command = [sys.executable, "-m", "jobs", "stage", "train", "--store", stage.store.url, "--run", stage.run_id]
        command += ["--index", str(node), "--of", str(nodes)]
        given = {"HANFORGE_SCRATCH": str(self.folder / "scratch"), "OMP_NUM_THREADS": "1", **environment}
        (self.folder / "scratch").mkdir(exist_ok=True)
        path = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        if deterministic:
            path.insert(0, str(self.folder / "deterministic"))
            given["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        given["PYTHONPATH"] = ":".join(filter(None, path))
        with self.log(stage).open("ab") as log:
            return subprocess.Popen(command, env={**os.environ, **given}, stdout=log, stderr=log)

    def log(self, stage: Stage) -> Path:
        """Where its processes write."""
        return Path(stage.store.path("")).parent / f"{stage.run_id}.log"

    def train(self, name: str, processes: int, *, deterministic: bool = False, **changed: Any) -> Trained:
        """One undisturbed training."""
        stage = self.stage(_slug(name), processes, **changed)
        trained = Trained(name, processes, self.rows(changed))
        with self.recorded(stage, trained):
            process = self.start(stage, {"NCCL_DEBUG": "INFO"}, deterministic=deterministic)
            trained.codes.append(process.wait())
        return trained

    def rows(self, changed: dict[str, Any]) -> int:
        """Rows of an optimizer step."""
        batch, accumulation = "per_device_train_batch_size", "gradient_accumulation_steps"
        settings = {**self.settings, **changed}
        return int(settings[batch] * settings[accumulation])

    @contextmanager
    def recorded(self, stage: Stage, trained: Trained) -> Iterator[None]:
        """Fill in what a training did meanwhile; prints the end of its log when it went wrong."""
        began, over = time.monotonic(), threading.Event()
        trained.log = self.log(stage)
        watcher = threading.Thread(target=_watch_cards, args=(trained, over), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
            trained.seconds = time.monotonic() - began
            self.runs.append(trained)
            _read_back(stage, trained)
            print(f"[{self.elapsed():5.0f} s] {as_row(trained)}", flush=True)
            if trained.codes[-1:] != [0]:
                print(trained.log.read_text(errors="replace")[-6000:], flush=True)

    def has_time(self, seconds: float, what: str) -> bool:
        """Whether so many seconds are left; says what is left out if not."""
        left = self.arguments.seconds - self.elapsed()
        if left < seconds:
            print(f"left out, {left:.0f} s are left: {what}", flush=True)
        return bool(left >= seconds)

    def elapsed(self) -> float:
        """Seconds since the benchmark began."""
        return time.monotonic() - self.began

    def check(self, what: str, holds: bool) -> None:
        """Keep one finding for the end."""
        self.checks.append((what, holds))
        print(f"{'ok  ' if holds else 'NOT '} {what}", flush=True)


def _write(path: Path, values: dict[str, Any]) -> None:
    with path.open("w") as out:
        YAML().dump(values, out)


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def _watch_cards(trained: Trained, over: threading.Event) -> None:
    """Keep the most memory in use on each card, as the driver tells it; other programs count too."""
    cards = torch.cuda.device_count()
    trained.card_gib = [0.0] * cards
    while cards and not over.wait(0.3):
        used = [torch.cuda.device_memory_used(card) / 2**30 for card in range(cards)]
        trained.card_gib = [max(pair) for pair in zip(trained.card_gib, used, strict=True)]


def _read_back(stage: Stage, trained: Trained) -> None:
    """Losses and speed from the stage's metrics; a step that was done twice counts as it was done last."""
    logged = [one for one in read_metrics(stage.directory) if "loss" in one]
    trained.losses = {one["step"]: one["loss"] for one in logged}
    steady = [one for one in logged if one["step"] >= min(WARM_STEPS, len(logged) - 1)]
    if len(trained.codes) == 1 and len(steady) > 1:
        tokens = steady[-1]["tokens"] - steady[0]["tokens"]
        trained.tokens_per_second = tokens / (steady[-1]["time"] - steady[0]["time"])
        trained.step_tokens = tokens / (len(steady) - 1)
    trained.torch_gib = max((one.get("peak_bytes", float("nan")) for one in logged), default=float("nan")) / 2**30
    manifest = stage.directory.manifest()
    if manifest is not None:
        (part,) = [part for part in manifest.outputs["adapter"] if part.name == "adapter_model.safetensors"]
        trained.adapter = Path(stage.store.path(part.key))


def as_row(one: Trained) -> str:
    """One line of the table."""
    losses = [f"{one.losses[step]:.4f}" for step in (min(one.losses), max(one.losses))] if one.losses else ["-"]
    cards = ", ".join(f"{gib:.1f}" for gib in one.card_gib) or "-"
    return (
        f"| {one.name} | {one.processes} | {one.rows} x {one.step_tokens / one.rows:.0f} "
        f"| {one.tokens_per_second:,.0f} | {one.step_tokens / one.tokens_per_second:.3f} | {one.torch_gib:.1f} "
        f"| {cards} | {' -> '.join(losses)} | {', '.join(map(str, one.codes))} | {one.seconds:.0f} |"
    )


def build_base(arguments: argparse.Namespace, folder: Path) -> None:
    """A checkpoint of the case's shape with `--layers` layers and seeded random weights, made on the first card."""
    config = known_config(CASES[arguments.case].model)
    assert config is not None
    text = {"num_hidden_layers": arguments.layers}
    if arguments.tiny:
        config, text = tiny(config), {"vocab_size": 1024}
    config = {**config, **({"text_config": {**config["text_config"], **text}} if "text_config" in config else text)}
    torch.manual_seed(0)
    device = "cpu" if arguments.tiny else "cuda"
    model = random_model(config, torch.float32 if arguments.tiny else torch.bfloat16, "sdpa", device)
    model.save_pretrained(folder)
    made = tokenizer("qwen25")
    made.save_pretrained(folder)


def write_rows(folder: Path, count: int, mean_tokens: int) -> None:
    """Conversations of one to three exchanges in random Hangul, log-normal lengths around `mean_tokens`."""
    folder.mkdir()
    drawn = random.Random(0)
    syllables = [chr(drawn.randrange(0xAC00, 0xD7A4)) for _ in range(200)]

    def words(tokens: float) -> str:
        letters = max(2, round(tokens / 2.8))  # a syllable is three bytes, a space is one
        return "".join(" " if place % 5 == 4 else drawn.choice(syllables) for place in range(letters)).strip()

    with (folder / "data.jsonl").open("w", encoding="utf-8") as out:
        for number in range(count):
            exchanges = drawn.randint(1, 3)
            tokens = min(drawn.lognormvariate(-0.32, 0.8), 6.0) * mean_tokens / exchanges
            messages = [
                message
                for _ in range(exchanges)
                for message in (
                    {"role": "user", "content": words(tokens * 0.3)},
                    {"role": "assistant", "content": words(tokens * 0.7)},
                )
            ]
            row = {"messages": messages, "source": "made", "id": f"{number:032x}", "origin": f"data.jsonl:{number + 1}"}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
