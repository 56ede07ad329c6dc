"""The kind `train`: base + rows -> adapter. One writer under a lease, checkpoints in the store, resume from the newest.

On the CPU the adapter's bytes do not depend on how often the training was killed: data order, dropout and optimizer
state come back with the checkpoint, and logging, saving and evaluating consume no randomness.
"""

import itertools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import orjson
import torch

from pipeline.errors import Stopped, UserError
from pipeline.merging.checkpoint import open_checkpoint, weights_digest
from pipeline.recipe.references import InputReference, StageReference, is_hub_id
from pipeline.store.commit import Counts
from pipeline.store.lease import Lease
from pipeline.store.stage import Stage
from pipeline.teacher import reading
from pipeline.training.architecture import Architecture, read_architecture
from pipeline.training.card import BaseIdentity, finish_adapter
from pipeline.training.checkpoints import StoredCheckpoints
from pipeline.training.data import (
    OverLength,
    Rejected,
    Tally,
    open_dataset,
    readable,
    tokenised,
    write_dataset,
    write_packed,
)
from pipeline.training.events import TrainingEvents
from pipeline.training.gang import Gang, joined
from pipeline.training.hardware import END_TO_END, capability_here, choose_attention, choose_precision
from pipeline.training.masks import ChatEncoder, Encoded
from pipeline.training.model import compile_decoder_layers, load_base, lora_config
from pipeline.training.preflight import check_settings, preflight
from pipeline.training.process import prepare_process
from pipeline.training.settings import TrainSettings
from pipeline.training.templates import choose_template
from pipeline.training.trainer import Cadence, PreparedRowsTrainer, build_trainer, out_of_memory, sft_arguments

__all__ = ["preflight", "run"]
T = TypeVar("T")
UNIT = "train"
DEFAULT_EVAL_ROWS = 256
ROWS, PACKED, EVAL_ROWS = "rows.arrow", "packed.arrow", "eval.arrow"


@dataclass(frozen=True)
class Prepared:
    """The rows as the trainer reads them, and what became of them."""

    dataset: Any
    eval_dataset: Any
    tally: Tally
    eval_rows: int
    rejects: Path


@dataclass(frozen=True)
class Base:
    """The checkpoint to start from, with its tokenizer and the chat template that training uses."""

    folder: Path
    architecture: Architecture
    tokenizer: Any
    template: str


def run(stage: Stage) -> None:
    """Train, or go on from the newest complete checkpoint; commits outputs `adapter` and `rejects`.

    Every process of a gang comes here; the leader alone holds the lease and commits.
    Raises UserError for what the user must mend (memory, a loss that is no number, no row left), Stopped after a
    checkpoint when asked to stop, Trouble when another writer took over.
    """
    with joined(stage.execution) as gang:
        if not gang.leads:
            if gang.tell(False):
                _train(stage, gang, None)
            return
        stage.directory.plan(lambda: {"units": [UNIT]})
        with Lease(stage.directory, stage.stop) as lease:
            finished = lease.adopted or stage.directory.manifest() is not None
            if gang.tell(not finished and UNIT not in stage.directory.done_names()):
                _train(stage, gang, lease)
            if not finished:
                StoredCheckpoints(stage.directory, lease.check, stage.settings.save_total_limit).delete_all()
                lease.check()
                stage.directory.commit_manifest([UNIT], dict(stage.directory.done()[UNIT].measurements))


def _train(stage: Stage, gang: Gang, lease: Lease | None) -> None:
    """Train as one process of a gang; its leader has the lease."""
    settings: TrainSettings = stage.settings
    prepare_process(stage.execution)
    base = _open_base(stage)
    data = _data(stage, gang, base)
    events = TrainingEvents(stage, stage.scratch() / "tensorboard" if "tensorboard" in settings.report_to else None)
    check = lease.check if lease is not None else _nobody_writes
    checkpoints = StoredCheckpoints(stage.directory, check, settings.save_total_limit)

    def saved(step: int, folder: Path) -> None:
        stage.metrics.flush()  # else a kill after it would leave a gap: these steps are not done again
        checkpoints.save(step, folder)
        shutil.rmtree(folder)
        events.upload()

    cadence = Cadence(
        save_steps=settings.save_steps,
        save_seconds=settings.save_seconds,
        eval_steps=settings.eval_steps,
        evaluates=data.eval_dataset is not None,
        stop_requested=lambda: stage.stop.requested,
        on_saved=saved,
        on_log=events.log if gang.leads else None,
        on_step=events.step if gang.leads else None,
        gang=gang,
    )
    try:
        trainer = _trainer(stage, base, data, cadence)
        events.trainer = trainer
        _fit(stage, trainer, checkpoints, cadence)
    except torch.OutOfMemoryError as error:
        raise out_of_memory(settings, error) from error
    if lease is not None:
        events.upload()
        _commit(stage, lease, base, data, trainer)


def _nobody_writes() -> None:
    raise AssertionError("only the leader of a gang writes checkpoints")


def _open_base(stage: Stage) -> Base:
    from transformers import AutoTokenizer

    folder = stage.model_path(stage.settings.base)
    architecture = read_architecture(folder)
    check_settings(stage, architecture)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return Base(folder, architecture, tokenizer, choose_template(tokenizer, stage.settings.chat_template, str(folder)))


def _data(stage: Stage, gang: Gang, base: Base) -> Prepared:
    """The rows, tokenised once on each node."""
    prepared = prepare_data(stage, ChatEncoder(base.tokenizer)) if gang.leads_node else None
    folder = gang.collect(stage.scratch())[gang.rank - gang.local_rank]
    return prepared or _opened(folder, stage.settings)


def prepare_data(stage: Stage, encoder: ChatEncoder) -> Prepared:
    """Tokenise the rows of `data` (and `eval_data`) into the scratch folder, packed when the settings say so."""
    settings: TrainSettings = stage.settings
    folder, tally = stage.scratch(), Tally()
    rejects = folder / "rejects.jsonl"
    rows = (row for reference in settings.data_references for row in readable(stage.rows(reference)))
    with rejects.open("wb") as out:
        write_dataset(folder / ROWS, _kept(_until_stopped(stage, rows), encoder, tally, settings, out))
    if not tally.ok:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(tally.rejected.items()))
        raise UserError(
            f"none of {tally.planned} rows can be trained on: {reasons or 'the data is empty'}",
            "Raise max_length, or look at the chat template.",
        )
    stage.log.info("%s", tally.measurements())
    eval_rows = 0
    if settings.eval_data is not None:
        held_out = Tally()
        picked = itertools.islice(readable(stage.rows(settings.eval_data)), settings.eval_rows or DEFAULT_EVAL_ROWS)
        write_dataset(folder / EVAL_ROWS, _kept(picked, encoder, held_out, settings, None))
        eval_rows = held_out.ok
        if not eval_rows:
            raise UserError(
                f"none of {held_out.planned} rows of eval_data can be used", f"Reasons: {held_out.rejected}."
            )
    if settings.packing:
        write_packed(folder / PACKED, open_dataset(folder / ROWS), settings.max_length)
    return replace(_opened(folder, settings), tally=tally, eval_rows=eval_rows)


def _opened(folder: Path, settings: TrainSettings) -> Prepared:
    """What `prepare_data` wrote into a folder."""
    dataset = open_dataset(folder / (PACKED if settings.packing else ROWS))
    eval_dataset = open_dataset(folder / EVAL_ROWS) if settings.eval_data is not None else None
    return Prepared(dataset, eval_dataset, Tally(), 0, folder / "rejects.jsonl")


def _until_stopped(stage: Stage, rows: Iterator[T]) -> Iterator[T]:
    for row in rows:
        stage.stop.raise_if_requested()
        yield row


def _kept(rows: Any, encoder: ChatEncoder, tally: Tally, settings: TrainSettings, rejects: Any) -> Iterator[Encoded]:
    """The rows that are trained on; the others go to `rejects` as JSON lines."""
    policy: OverLength = settings.over_length
    for result in tokenised(rows, encoder, tally, max_length=settings.max_length, over_length=policy):
        if isinstance(result, Encoded):
            yield result
        elif rejects is not None:
            rejects.write(reject_line(result) + b"\n")


def reject_line(rejected: Rejected) -> bytes:
    """A rejects row: reason, detail, where the row came from, and the row itself as `line`."""
    if rejected.unread is not None:
        return reading.reject_line(rejected.unread, rejected.reason, rejected.detail)
    row = rejected.row
    record = {
        "reason": rejected.reason,
        "detail": rejected.detail,
        "source": row.get("source"),
        "origin": row.get("origin"),
        "line": orjson.dumps(row).decode(),
    }
    return orjson.dumps(record)


def _trainer(stage: Stage, base: Base, data: Prepared, cadence: Cadence) -> PreparedRowsTrainer:
    settings, execution = stage.settings, stage.execution
    precision = choose_precision(execution.precision, device=execution.device, capability=capability_here())
    attention = choose_attention(execution.attention, precision) if execution.device == "cuda" else "sdpa"
    laid_end_to_end = attention in END_TO_END
    model = load_base(base.folder, base.architecture, settings, precision, attention, execution.device)
    if settings.compile_layers:
        compile_decoder_layers(model)
    arguments = sft_arguments(
        settings,
        stage.scratch() / "output",
        precision,
        execution.world_size,
        execution.device,
        laid_end_to_end=laid_end_to_end,
    )
    return build_trainer(
        model,
        base.tokenizer,
        arguments,
        lora_config(model, base.architecture, settings.lora),
        data.dataset,
        data.eval_dataset,
        cadence=cadence,
        tokens_at_once=settings.tokens_at_once if laid_end_to_end else None,
    )


def _fit(stage: Stage, trainer: PreparedRowsTrainer, checkpoints: StoredCheckpoints, cadence: Cadence) -> None:
    """Run the optimizer steps that are left; Stopped when asked to stop, after a checkpoint."""
    folder, gang = stage.scratch() / "resume", cadence.gang
    newest = checkpoints.newest(folder) if gang.leads else None
    checkpoint = gang.tell(newest[0] if newest else None)
    local = None
    if checkpoint is not None:
        stage.log.info("going on from the checkpoint of step %d", checkpoint.step)
        local = newest[1] if newest else checkpoints.fetch(checkpoint, folder / f"checkpoint-{checkpoint.step}")
        if trainer.take_finished(local):
            return
    trainer.train(resume_from_checkpoint=str(local) if local else None)
    if cadence.stopped and trainer.state.global_step < trainer.state.max_steps:
        raise Stopped()


def _commit(stage: Stage, lease: Lease, base: Base, data: Prepared, trainer: PreparedRowsTrainer) -> None:
    folder = stage.scratch() / "adapter"
    # The base is asked for its embeddings' size only where it lies; no lookup on a hub.
    trainer.accelerator.unwrap_model(trainer.model).save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    tally = data.tally
    measured = {
        **tally.measurements(),
        "planned": tally.planned,
        "rejected": dict(sorted(tally.rejected.items())),
        "steps": trainer.state.global_step,
        "precision": stage.execution.precision,
        # From the trainer's own history: it comes back with a checkpoint, and so does not depend on interruptions.
        "eval_loss": next(
            (log["eval_loss"] for log in reversed(trainer.state.log_history) if "eval_loss" in log), None
        ),
        "eval_rows": data.eval_rows,
    }
    finish_adapter(folder, base.folder, _identity(stage, base), base.template, stage.settings, measured)
    with stage.directory.write_rows(UNIT, output="rejects") as writer, data.rejects.open("rb") as lines:
        for line in lines:
            writer.write(line.rstrip(b"\n"))
    outputs = {"adapter": stage.directory.write_directory(UNIT, folder), "rejects": [writer.committed()]}
    lease.check()
    counts = Counts(tally.planned, tally.ok, measured["rejected"], {})
    stage.directory.commit_unit(UNIT, outputs, counts, measured)


def _identity(stage: Stage, base: Base) -> BaseIdentity:
    reference = stage.settings.base
    identity = stage.identity(reference)
    quantised = "quantization_config" in base.architecture.config or "quantization_config" in base.architecture.text
    weights = "" if quantised else weights_digest(open_checkpoint(base.folder))
    return BaseIdentity(_name(stage, reference), identity, weights)


def _name(stage: Stage, reference: Any) -> str:
    """What the base is called on any machine: a Hub id, an input's or a stage's name, the last part of a path."""
    if isinstance(reference, StageReference):
        return f"{stage.recipe_name}/{reference.stage}"
    if isinstance(reference, InputReference):
        return reference.input
    return str(reference) if is_hub_id(reference) else str(reference).rstrip("/").rsplit("/", 1)[-1]
