"""Speed and memory of the training path on full-size shapes with random weights: no checkpoint, no store.

    python benchmarks/train.py --case phase1|phase2|multiturn|all [--steps 4] [--compile] [--no-recompute]
                               [--row-tokens 450 [--packed]] [--attention sdpa|varlen]

Each case holds the user's own settings. The model is built on the GPU itself, adapters, collator and trainer are the
project's own, and every sequence is full of random tokens that all carry loss; with --row-tokens rows have log-normal
lengths of that mean: padded (sdpa), laid end to end (varlen, which is what an H100 chooses by itself) or packed. The
first optimizer steps (--warmup) are left out of the timing, and only real tokens count. `--tiny` runs the same code
with tiny shapes, on a CPU too. Needs torch, transformers, peft,
accelerate, trl, datasets, pydantic, ruamel.yaml; bitsandbytes for `multiturn`.
"""

import argparse
import gc
import itertools
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from random_model import quantise, random_model, tiny

from pipeline.recipe.known_models import known_config
from pipeline.training.architecture import architecture_of
from pipeline.training.data import open_dataset, write_dataset, write_packed
from pipeline.training.hardware import DTYPES, END_TO_END, choose_attention, choose_precision, device_name
from pipeline.training.masks import Encoded
from pipeline.training.model import compile_decoder_layers, lora_config
from pipeline.training.settings import TrainSettings
from pipeline.training.trainer import Cadence, build_trainer, sft_arguments


@dataclass(frozen=True)
class Work:
    """What the user trains: rows, epochs, and the hours of the user's own earlier runs."""

    name: str
    rows: int
    epochs: int
    tokens_per_row: int
    user_hours: str

    @property
    def tokens(self) -> int:
        return self.rows * self.epochs * self.tokens_per_row


@dataclass(frozen=True)
class Case:
    """One of the user's trainings: shape, settings and the work that hours are computed for."""

    model: str
    settings: dict[str, Any]
    work: tuple[Work, ...]


# 1.4 GB in 681,000 rows: about 2,050 bytes a row, some 600 Hangul characters, 0.7 tokens each with Qwen's tokenizer.
# Rows with a teacher's reasoning are taken as twice that.
PLAIN, REASONED = 450, 900
CASES = {
    "phase1": Case(
        "Qwen/Qwen3-VL-8B-Instruct",
        {
            "max_length": 4096,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 4,
            "learning_rate": 2e-5,
            "lora": {"r": 16, "lora_alpha": 32},
        },
        (Work("256,000 rows, 2 epochs", 256_000, 2, PLAIN, "4-6"),),
    ),
    "phase2": Case(
        "Qwen/Qwen3-VL-8B-Instruct",
        {
            "max_length": 8192,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 8,
            "learning_rate": 1e-5,
            "lora": {"r": 32, "lora_alpha": 64},
        },
        (
            Work("28,257 rows (5 %), 3 epochs", 28_257, 3, REASONED, "2-3"),
            Work("565,140 rows (100 %), 3 epochs", 565_140, 3, REASONED, "20-30"),
        ),
    ),
    "multiturn": Case(
        "Qwen/Qwen2.5-14B-Instruct",
        {
            "max_length": 4096,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 4,
            "learning_rate": 2e-4,
            "quantization": "8bit",
            "lora": {"r": 64, "lora_alpha": 128, "lora_dropout": 0.05},
        },
        (Work("681,000 rows, 3 epochs", 681_000, 3, PLAIN, "12-18"),),
    ),
}


class Stopwatch:
    """Seconds and real tokens of each optimizer step, the GPU's queue emptied before the clock is read."""

    def __init__(self, warmup: int) -> None:
        self.warmup = warmup
        self.trainer: Any = None
        self.times: list[float] = []
        self.tokens: list[int] = []

    def start(self, trainer: Any) -> None:
        self.trainer = trainer
        self.step(0, 0)

    def step(self, _done: int, _total: int) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
        self.tokens.append(self.trainer.tokens_seen)

    def seconds(self) -> list[float]:
        return [later - earlier for earlier, later in itertools.pairwise(self.times)]

    def steady(self) -> list[float]:
        """The seconds of the steps after the warm-up, which holds what happens once."""
        return self.seconds()[self.warmup :] or self.seconds()

    def tokens_per_second(self) -> float:
        """Real tokens of the steps after the warm-up, by their seconds."""
        return (self.tokens[-1] - self.tokens[-1 - len(self.steady())]) / sum(self.steady())


def random_rows(folder: Path, settings: TrainSettings, vocabulary: int, mean: int | None) -> Any:
    """Rows of random tokens for `max_steps` steps, each token a label: all of max_length, or log-normal with `mean`."""
    generator = torch.Generator().manual_seed(0)
    count = settings.total_batch * int(settings.max_steps or 1)
    lengths = torch.full((count,), settings.max_length)
    if mean is not None:
        count = count * settings.max_length // mean + settings.total_batch if settings.packing else count
        spread = 0.8
        normal = torch.randn(count, generator=generator) * spread - spread**2 / 2
        lengths = (normal.exp() * mean).long().clamp(8, settings.max_length)
    rows = (torch.randint(0, vocabulary, (int(length),), generator=generator).tolist() for length in lengths)
    dataset = open_dataset(write_dataset(folder / "rows.arrow", (Encoded(ids, ids) for ids in rows)))
    if settings.packing:
        dataset = open_dataset(write_packed(folder / "packed.arrow", dataset, settings.max_length))
    return dataset


def stand_in_tokenizer(vocabulary: int) -> Any:
    """A word-level tokenizer of numbers: the trainer saves one with each checkpoint and asks for its padding."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {str(number): number for number in range(min(vocabulary, 256))}
    backend = Tokenizer(models.WordLevel(words, unk_token="0"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="0", eos_token="1")


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train a few optimizer steps of one case; tokens a second, seconds a step, peak GiB, first and last loss."""
    case = CASES[name]
    device: Any = "cuda" if torch.cuda.is_available() else "cpu"
    capability = torch.cuda.get_device_capability() if device == "cuda" else None
    precision = choose_precision(arguments.precision, device=device, capability=capability)
    attention = choose_attention(arguments.attention, precision)
    values = {**case.settings, "gradient_checkpointing": not arguments.no_recompute, "max_steps": arguments.steps}
    values["packing"] = arguments.packed
    values["quantization"] = arguments.quantization or values.get("quantization", "none")
    if arguments.no_dropout:
        values["lora"] = {**values["lora"], "lora_dropout": 0.0}
    if arguments.batch:
        total = values["per_device_train_batch_size"] * values["gradient_accumulation_steps"]
        values.update(per_device_train_batch_size=arguments.batch, gradient_accumulation_steps=total // arguments.batch)
    if arguments.tiny:
        values["max_length"] = 64
    settings = TrainSettings(base="random/weights", data="random", logging_steps=1, report_to=[], **values)
    config = known_config(case.model)
    assert config is not None, f"{case.model} is not in known_models.yaml"
    if arguments.tiny:
        config = tiny(config)
    started = time.perf_counter()
    model = random_model(config, DTYPES[precision], attention, device)
    if settings.quantization != "none":
        quantise(model, settings.quantization, device)
    built = time.perf_counter() - started
    if device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        watch = _train(model, settings, config, precision, attention, Path(folder), arguments, losses)
    measured = watch.seconds()
    steady = watch.steady()
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else float("nan")
    reserved = torch.cuda.max_memory_reserved() / 2**30 if device == "cuda" else float("nan")
    return {
        "case": name,
        "precision": precision,
        "attention": attention,
        "batch": settings.per_device_train_batch_size,
        "accumulation": settings.gradient_accumulation_steps,
        "rows": _rows_in_words(settings, attention, arguments),
        "tokens_per_second": watch.tokens_per_second(),
        "first_step_seconds": measured[0],
        "step_seconds": sum(steady) / len(steady),
        "peak_gib": peak,
        "reserved_gib": reserved,
        "build_seconds": built,
        "losses": losses,
    }


def _train(
    model: Any,
    settings: TrainSettings,
    config: dict[str, Any],
    precision: Any,
    attention: Any,
    folder: Path,
    arguments: argparse.Namespace,
    losses: list[float],
) -> Stopwatch:
    """Train `max_steps` optimizer steps under a stopwatch."""
    vocabulary = config.get("text_config", config)["vocab_size"]
    dataset = random_rows(folder, settings, vocabulary, arguments.row_tokens)
    architecture = architecture_of(config, "benchmark")
    if arguments.compile:
        compile_decoder_layers(model)
    watch = Stopwatch(arguments.warmup)
    laid_end_to_end = attention in END_TO_END
    device: Any = "cuda" if torch.cuda.is_available() else "cpu"

    def on_log(_step: int, logs: dict[str, Any]) -> None:
        losses.extend([logs["loss"]] if "loss" in logs else [])

    trainer = build_trainer(
        model,
        stand_in_tokenizer(vocabulary),
        sft_arguments(settings, folder / "out", precision, device=device, laid_end_to_end=laid_end_to_end),
        lora_config(model, architecture, settings.lora),
        dataset,
        None,
        cadence=Cadence(on_step=watch.step, on_log=on_log),
        tokens_at_once=settings.tokens_at_once if laid_end_to_end else None,
    )
    watch.start(trainer)
    trainer.train()
    return watch


def _rows_in_words(settings: TrainSettings, attention: str, arguments: argparse.Namespace) -> str:
    """How rows become batches: full, padded, end to end or packed; compiled, recomputed."""
    rows = "full" if arguments.row_tokens is None else f"mean {arguments.row_tokens}"
    laid = ["packed"] if settings.packing else []
    laid += ["end to end"] if attention in END_TO_END else ["padded"]
    laid += ["compiled"] if arguments.compile else []
    laid += [] if settings.gradient_checkpointing else ["no recomputation"]
    laid += [] if settings.quantization == "none" else [f"{settings.quantization} base"]
    laid += ["no dropout"] if arguments.no_dropout else []
    return ", ".join([rows, *laid])


def table_head(*names: str) -> tuple[str, str]:
    """The first two lines of a Markdown table."""
    return f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"


def report(results: list[dict[str, Any]]) -> str:
    """A Markdown table of what was measured, and the hours that follow for the user's rows."""
    lines = [
        f"{device_name()}, torch {torch.__version__}",
        "",
        *table_head(
            "case",
            "rows",
            "batch x accumulation",
            "attention",
            "tokens/s",
            "s/step",
            "first step s",
            "peak GiB",
            "reserved",
            "loss",
        ),
    ]
    for one in results:
        losses = f"{one['losses'][0]:.3f} -> {one['losses'][-1]:.3f}" if one["losses"] else "-"
        lines.append(
            f"| {one['case']} | {one['rows']} | {one['batch']} x {one['accumulation']} "
            f"| {one['attention']} {one['precision']} "
            f"| {one['tokens_per_second']:,.0f} | {one['step_seconds']:.2f} | {one['first_step_seconds']:.1f} "
            f"| {one['peak_gib']:.1f} | {one['reserved_gib']:.1f} | {losses} |"
        )
    lines += ["", *table_head("case", "work", "tokens a row", "tokens", "hours", "the user's hours")]
    for one in results:
        for work in CASES[one["case"]].work:
            hours = work.tokens / one["tokens_per_second"] / 3600
            lines.append(
                f"| {one['case']} | {work.name} | {work.tokens_per_row} (assumed) | {work.tokens / 1e6:,.0f} M "
                f"| {hours:.1f} | {work.user_hours} |"
            )
    lines.append(
        "\nHours are tokens / (tokens/s); tokens a row are an assumption, and full sequences stand for packed rows."
    )
    return "\n".join(lines)


def main() -> None:
    """Parse the flags, run the cases one after another and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=[*CASES, "all"], default="all")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps")
    parser.add_argument("--warmup", type=int, default=1, help="so many of them are not timed (3 with --compile)")
    parser.add_argument("--batch", type=int, help="rows of a micro-batch; the total batch stays")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--row-tokens", type=int, help="mean length of rows; default: every sequence is full")
    parser.add_argument("--packed", action="store_true", help="pack the rows of --row-tokens")
    parser.add_argument("--compile", action="store_true", help="compile each decoder layer")
    parser.add_argument("--no-recompute", action="store_true", help="keep activations (needs memory)")
    parser.add_argument("--quantization", choices=["none", "8bit", "4bit"], help="default: the user's")
    parser.add_argument("--no-dropout", action="store_true", help="no dropout in the adapters")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to try the code on a CPU")
    arguments = parser.parse_args()
    results = []
    for name in CASES if arguments.case == "all" else [arguments.case]:
        results.append(measure(name, arguments))
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        print(results[-1], flush=True)
    print(report(results))


if __name__ == "__main__":
    main()
