"""TRL's SFTTrainer over rows that are tokenised and labelled already, with this project's cadence and bookkeeping.

Nothing here knows the store: a `Cadence` says when to save, evaluate and stop, and `on_saved` takes each checkpoint.
Evaluation leaves the random state alone, so that how often one evaluates, saves or logs changes no result.
"""

import contextlib
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from trl import SFTConfig, SFTTrainer

from pipeline.errors import UserError
from pipeline.training.collator import Batch, CausalCollator, end_to_end, pieces
from pipeline.training.gang import Gang
from pipeline.training.hardware import Device, Precision
from pipeline.training.model import leave_casting_to_autocast, trainable_to_float32
from pipeline.training.settings import TrainSettings, accumulation_for

LOG = logging.getLogger(__name__)
ROW_LENGTHS = "row_lengths"


def sft_arguments(
    settings: TrainSettings,
    output: Path,
    precision: Precision,
    world_size: int = 1,
    device: Device = "cuda",
    *,
    laid_end_to_end: bool = False,
) -> SFTConfig:
    """SFTConfig for prepared rows: own collator, own cadence, nothing written outside `output`.

    Rows that are laid end to end come as one batch for each optimizer step, which the trainer cuts by tokens.
    """
    external = [name for name in settings.report_to if name != "tensorboard"]
    batch, accumulation = settings.per_device_train_batch_size, accumulation_for(settings, world_size)
    if laid_end_to_end:
        batch, accumulation = batch * accumulation, 1
    arguments = SFTConfig(
        output_dir=str(output),
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=settings.per_device_train_batch_size,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_scheduler_type,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim=settings.optim,
        adam_beta1=settings.adam_beta1,
        adam_beta2=settings.adam_beta2,
        adam_epsilon=settings.adam_epsilon,
        seed=settings.seed,
        data_seed=settings.seed,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        gradient_checkpointing=settings.gradient_checkpointing,
        # bitsandbytes' 8-bit product keeps its inputs on its context, out of reach of the hooks that non-reentrant
        # recomputation works by: 1.1 GiB a layer stayed at 4 x 4096 tokens (14B on an H100: 75 GiB instead of 33).
        gradient_checkpointing_kwargs=(
            {"use_reentrant": settings.quantization == "8bit"} if settings.gradient_checkpointing else None
        ),
        train_sampling_strategy=settings.train_sampling_strategy,
        length_column_name="length",
        dataloader_num_workers=settings.dataloader_num_workers,
        logging_steps=settings.logging_steps,
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to=external or "none",
        run_name=settings.run_name,
        disable_tqdm=True,
        use_cpu=device == "cpu",
        max_length=None,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,  # every trained parameter takes part in every step
        dataset_kwargs={"skip_prepare_dataset": True},
        prediction_loss_only=True,
    )
    # One card a process, however many this machine has: Trainer would spread a single process over all it sees.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


@dataclass
class Cadence:
    """When to save and to evaluate, and whom to tell. Times are monotonic seconds.

    Of a gang the leader's clock decides, and `on_saved` is called in the leader alone; `stopped` says in every process
    that the training was ended because somebody asked for it.
    """

    save_steps: int | None = None
    save_seconds: float | None = None
    eval_steps: int | None = None
    evaluates: bool = False
    stop_requested: Callable[[], bool] = lambda: False
    on_saved: Callable[[int, Path], None] | None = None
    on_log: Callable[[int, dict[str, Any]], None] | None = None
    on_step: Callable[[int, int], None] | None = None
    gang: Gang = field(default_factory=Gang)
    stopped: bool = False
    saved_at: float = field(default_factory=time.monotonic)

    def save_is_due(self, step: int) -> bool:
        """Whether a checkpoint is due after optimizer step `step`."""
        by_steps = self.save_steps is not None and step % self.save_steps == 0
        return by_steps or (self.save_seconds is not None and time.monotonic() - self.saved_at >= self.save_seconds)


class CadenceCallback(TrainerCallback):  # type: ignore[misc]
    """Drives Trainer's control flags from a Cadence."""

    def __init__(self, cadence: Cadence, trainer: "PreparedRowsTrainer") -> None:
        self.cadence = cadence
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After an optimizer step: check the loss, then say what is due; all processes of a gang say the same."""
        cadence, trainer, last = self.cadence, self.trainer, state.global_step >= state.max_steps
        loss, own_tokens = trainer.take_step()
        broken, due, stop, tokens = cadence.gang.total(
            not math.isfinite(loss),
            cadence.gang.leads and cadence.save_is_due(state.global_step),
            cadence.stop_requested(),
            own_tokens,
        )
        trainer.tokens_seen += int(tokens)
        if broken:
            raise _no_number(loss, state.global_step, args.learning_rate)
        if cadence.on_step is not None:
            cadence.on_step(state.global_step, state.max_steps)
        if cadence.evaluates and (last or (cadence.eval_steps and state.global_step % cadence.eval_steps == 0)):
            control.should_evaluate = True
        if cadence.on_saved is not None:
            if last or due:
                control.should_save = True
            if stop:
                control.should_save = control.should_training_stop = cadence.stopped = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A checkpoint lies complete in the local folder: hand it on, with the random state of every process."""
        folder, gang = Path(args.output_dir) / f"checkpoint-{state.global_step}", self.cadence.gang
        if gang.size > 1:
            own = folder / f"rng_state_{gang.rank}.pth"
            for rank, random_state in enumerate(gang.collect(own.read_bytes())):
                (folder / f"rng_state_{rank}.pth").write_bytes(random_state)
        if gang.leads and self.cadence.on_saved is not None:
            self.cadence.on_saved(state.global_step, folder)
        else:
            shutil.rmtree(folder)
        self.cadence.saved_at = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Pass on what Trainer logged."""
        if self.cadence.on_log is not None and logs:
            self.cadence.on_log(state.global_step, logs)


@dataclass(frozen=True)
class CountingCollator:
    """Collates, and tells the rows' real lengths, [rows], which the trainer takes out again.

    They stand first, since Trainer reads how many rows a batch has off its first tensor.
    """

    collate: Callable[[list[dict[str, Any]]], Batch]

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        return {ROW_LENGTHS: torch.tensor([len(row["input_ids"]) for row in rows]), **self.collate(rows)}


class PreparedRowsTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer that counts real tokens and keeps evaluation out of the way.

    `tokens_seen` counts those of all processes. `tokens_at_once` bounds a forward pass over rows laid end to end; None
    means that rows are padded.
    """

    tokens_seen = 0
    tokens_at_once: int | None = None
    _step_loss: torch.Tensor | None = None
    _step_tokens = 0

    def training_step(
        self, model: Any, inputs: Batch, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """One micro-batch, or all rows of a step in pieces; keeps its loss and its real tokens for `take_step`."""
        self._step_tokens += int(inputs.pop(ROW_LENGTHS).sum())
        parts = [inputs] if self.tokens_at_once is None else pieces(inputs, self.tokens_at_once)
        losses = []
        for number, part in enumerate(parts, 1):
            # A gang averages gradients once a step, however many pieces each process has.
            alone = contextlib.nullcontext() if number == len(parts) else self.accelerator.no_sync(model)
            with alone:
                losses.append(super().training_step(model, part, num_items_in_batch))
        loss: torch.Tensor = torch.stack(losses).sum() if len(losses) > 1 else losses[0]
        self._step_loss = loss if self._step_loss is None else self._step_loss + loss
        return loss

    def take_step(self) -> tuple[float, int]:
        """The loss of the optimizer step that has just ended and the real tokens of its rows, in this process."""
        taken = math.nan if self._step_loss is None else float(self._step_loss), self._step_tokens
        self._step_loss, self._step_tokens = None, 0
        return taken

    def take_finished(self, checkpoint: Path) -> bool:
        """Take weights and state of a checkpoint that was saved after the last step; False when steps are left.

        `train` would do one more step: it looks at max_steps only after a step.
        """
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        finished = state.global_step >= state.max_steps
        if finished:
            self._load_from_checkpoint(str(checkpoint))
            self.state = state
        return bool(finished)

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """One evaluation batch, without the length column."""
        inputs.pop(ROW_LENGTHS, None)
        return super().prediction_step(model, inputs, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate with the random state put back afterwards."""
        with _random_state_kept():
            result: dict[str, float] = super().evaluate(*args, **kwargs)
        return result

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The stage writes its own card."""


def _no_number(loss: float, step: int, learning_rate: float) -> UserError:
    return UserError(
        f"the loss is {loss} at step {step} with learning_rate={learning_rate}",
        "Lower learning_rate (1e-5), warm up (warmup_steps: 500), set max_grad_norm: 1.0.",
    )


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        yield


def build_trainer(
    model: Any,
    tokenizer: Any,
    arguments: SFTConfig,
    lora: Any,
    dataset: Any,
    eval_dataset: Any,
    *,
    cadence: Cadence,
    tokens_at_once: int | None = None,
    pad_to_multiple_of: int = 8,
) -> PreparedRowsTrainer:
    """The trainer over a model that is loaded, with the adapter put on and trainable parameters in float32.

    With `tokens_at_once` rows are laid end to end, so many tokens a forward pass, for arguments made likewise.
    The loss is the mean over all trained tokens of an optimizer step, however its rows are divided.
    """
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    padded = CausalCollator(pad if pad is not None else 0, pad_to_multiple_of)
    trainer = PreparedRowsTrainer(
        model=model,
        args=arguments,
        data_collator=CountingCollator(padded if tokens_at_once is None else end_to_end),
        train_dataset=dataset,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        peft_config=lora,
    )
    trainer.tokens_at_once = tokens_at_once
    # Qwen3-VL says no for its own loss, which is not used here; its micro-batches would count alike, long or short.
    trainer.model_accepts_loss_kwargs = True
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(CadenceCallback(cadence, trainer))
    LOG.info("%s trainable parameters", f"{trainable_to_float32(trainer.model):,}")
    if arguments.bf16 or arguments.fp16:
        leave_casting_to_autocast(trainer.model)
    return trainer


def out_of_memory(settings: TrainSettings, error: Exception) -> UserError:
    """What a user can do about a card that is too small, with the numbers."""
    peak, total = torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties(0).total_memory
    batch, steps = settings.per_device_train_batch_size, settings.gradient_accumulation_steps
    remedies = [f"max_length below {settings.max_length}"]
    if batch > 1:
        remedies.insert(0, f"per_device_train_batch_size: {batch // 2} with gradient_accumulation_steps: {steps * 2}")
    if not settings.gradient_checkpointing:
        remedies.insert(0, "gradient_checkpointing: true")
    if settings.quantization == "none":
        remedies.append("quantization: 8bit")
    return UserError(
        f"out of GPU memory: {peak / 2**30:.1f} GiB used of {total / 2**30:.1f} GiB with "
        f"per_device_train_batch_size={batch}, max_length={settings.max_length} ({str(error).splitlines()[0][:120]})",
        f"Try, in this order: {'; '.join(remedies)}.",
    )
