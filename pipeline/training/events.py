"""What a training tells while it runs: metrics records, progress, and TensorBoard event files in the store's logs."""

import time
from pathlib import Path
from typing import Any

import torch

from pipeline.store.stage import Stage
from pipeline.training.trainer import PreparedRowsTrainer

# What Trainer and TRL call it -> what the metrics call it.
KEPT = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "epoch": "epoch",
    "mean_token_accuracy": "token_accuracy",
    "eval_loss": "eval_loss",
    "eval_mean_token_accuracy": "eval_token_accuracy",
}


class TrainingEvents:
    """Turns the trainer's logs into this stage's metrics. `trainer` is set once it exists."""

    def __init__(self, stage: Stage, tensorboard: Path | None) -> None:
        self.trainer: PreparedRowsTrainer | None = None
        self._stage = stage
        self._folder = tensorboard
        self._writer: Any = None
        self._since, self._tokens = time.monotonic(), 0

    def log(self, step: int, logs: dict[str, Any]) -> None:
        """One record of the trainer: losses, rates and, for training steps, tokens a second and peak bytes."""
        record: dict[str, Any] = {ours: logs[theirs] for theirs, ours in KEPT.items() if theirs in logs}
        if "loss" in record and self.trainer is not None:
            now, tokens = time.monotonic(), self.trainer.tokens_seen
            record["tokens"] = tokens
            record["tokens_per_second"] = (tokens - self._tokens) / max(now - self._since, 1e-9)
            self._since, self._tokens = now, tokens
            if torch.cuda.is_available():
                record["peak_bytes"] = torch.cuda.max_memory_allocated()
        if not {"loss", "eval_loss"} & set(record):
            return
        self._stage.metrics.write({"step": step, **record})
        self._stage.progress.update(**{name: record[name] for name in ("loss", "tokens_per_second") if name in record})
        self._to_tensorboard(step, record)

    def step(self, done: int, total: int) -> None:
        """An optimizer step ended."""
        self._stage.progress.update(done=done, total=total)

    def _to_tensorboard(self, step: int, record: dict[str, Any]) -> None:
        if self._folder is None:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(log_dir=str(self._folder))
        for name, value in record.items():
            tag = f"eval/{name[5:]}" if name.startswith("eval_") else f"train/{name}"
            self._writer.add_scalar(tag, value, step)

    def upload(self) -> None:
        """Copy this process's event files to `logs/tensorboard/` (names are unique to a process)."""
        if self._folder is None or self._writer is None:
            return
        self._writer.flush()
        for path in sorted(self._folder.iterdir()):
            self._stage.store.upload(self._stage.directory.key("logs", "tensorboard", path.name), path)
