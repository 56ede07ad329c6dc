"""What a training will take, from config.json, settings and row counts alone: steps, tokens, memory, disk.

Torch-free. The constants of the memory model are fitted to four runs on one H100, each within 10 % (the tests hold
them). The arithmetic comes as lines that a person can check.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.training.parameters import Parameters, lora_parameters, parameter_counts
from pipeline.training.settings import TrainSettings, accumulation_for

GIB = 2**30
TRAINABLE_BYTES = 16
"""float32 weight, float32 gradient, two float32 Adam moments."""
SAVED_BYTES_PER_HIDDEN = 20.0
SAVED_BYTES_PER_INTERMEDIATE = 11.2
"""What one decoder layer keeps for its backward pass, in bytes a token at 2-byte activations, LoRA on all linears."""
LOGITS_CHUNK_TOKENS = 256
RESERVE_GIB = 1.0
"""CUDA context's share, cuBLAS workspaces, fragments."""
BYTES_4BIT = {True: 0.516, False: 0.5625}
"""Bytes a weight with its scales, by double quantisation; blocks of 64 (bitsandbytes)."""
PACKING_FILL = 0.98


@dataclass(frozen=True)
class Estimate:
    """Counts, GiB by part, and the arithmetic in words. `tokens` is None where nobody knows the rows' length."""

    parameters: int
    trainable: int
    sequences: int
    steps: int
    tokens: int | None
    memory_gib: dict[str, float]
    checkpoint_gib: float
    lines: tuple[str, ...]

    @property
    def total_gib(self) -> float:
        """Peak memory of one card."""
        return sum(self.memory_gib.values())


def estimate(
    config: dict[str, Any],
    settings: TrainSettings,
    *,
    rows: int,
    tokens_per_row: float | None = None,
    precision: Literal["bf16", "fp16", "fp32"] = "bf16",
    world_size: int = 1,
) -> Estimate:
    """What training `rows` rows with these settings takes on each of `world_size` cards.

    `tokens_per_row` is an average, needed for tokens and for the number of packed sequences.
    """
    counts = parameter_counts(config)
    trainable = lora_parameters(counts, settings.lora)
    sequences = packed_sequences(rows, tokens_per_row, settings) if settings.packing else rows
    steps = optimizer_steps(sequences, settings, world_size)
    seen = steps * settings.total_batch / max(sequences, 1) if settings.max_steps else settings.epochs
    tokens = None if tokens_per_row is None else round(rows * tokens_per_row * seen)
    memory, lines = memory_gib(counts, trainable, settings, precision)
    checkpoint = checkpoint_bytes(counts, settings) / GIB
    head = [
        f"parameters: {counts.total / 1e9:.2f} B, trained {trainable / 1e6:.1f} M (r={settings.lora.r})",
        f"optimizer steps: {_steps_in_words(sequences, settings, world_size)} = {steps:,}",
    ]
    if tokens is not None:
        head.append(f"tokens: {rows:,} rows x {tokens_per_row:.0f} x {seen:g} epochs = {tokens / 1e6:,.0f} M")
    tail = f"checkpoints: {settings.save_total_limit} x {checkpoint:.2f} GiB in the store, as much again in scratch"
    return Estimate(counts.total, trainable, sequences, steps, tokens, memory, checkpoint, (*head, *lines, tail))


def packed_sequences(rows: int, tokens_per_row: float | None, settings: TrainSettings) -> int:
    """How many sequences best-fit packing makes of the rows; the rows themselves where their length is unknown."""
    if tokens_per_row is None:
        return rows
    return max(1, math.ceil(rows * tokens_per_row / (settings.max_length * PACKING_FILL)))


def optimizer_steps(sequences: int, settings: TrainSettings, world_size: int = 1) -> int:
    """Optimizer steps as Trainer counts them: whole micro-batches, a last partial accumulation counts.

    Example: 256,000 rows, 2 epochs, batch 4, accumulation 4 -> 32,000
    """
    if settings.max_steps is not None:
        return settings.max_steps
    micro = math.ceil(sequences / (settings.per_device_train_batch_size * world_size))
    return math.ceil(settings.epochs * max(1, math.ceil(micro / accumulation_for(settings, world_size))))


def _steps_in_words(sequences: int, settings: TrainSettings, world_size: int) -> str:
    if settings.max_steps is not None:
        return "max_steps"
    cards = f" x {world_size} cards" if world_size > 1 else ""
    return (
        f"{settings.epochs:g} epochs x {sequences:,} {'sequences' if settings.packing else 'rows'} / "
        f"({settings.per_device_train_batch_size} x {accumulation_for(settings, world_size)}{cards})"
    )


def memory_gib(
    counts: Parameters, trainable: int, settings: TrainSettings, precision: str
) -> tuple[dict[str, float], list[str]]:
    """Peak GiB of one card by part, for batches full of rows of `max_length`, and a line of arithmetic for each."""
    width = 4 if precision == "fp32" else 2
    tokens = settings.per_device_train_batch_size * settings.max_length
    weights = weight_bytes(counts, settings, width)
    layer = (SAVED_BYTES_PER_HIDDEN * counts.hidden + SAVED_BYTES_PER_INTERMEDIATE * counts.intermediate) * width / 2
    if settings.gradient_checkpointing:
        activations = tokens * (counts.layers * counts.hidden * width + layer)
        kept = f"{counts.layers} layers x {counts.hidden} x {width} B kept + {layer / 1024:.0f} KiB for one at work"
    else:
        activations = tokens * counts.layers * layer
        kept = f"{counts.layers} layers x {layer / 1024:.0f} KiB kept"
    logits = min(tokens, LOGITS_CHUNK_TOKENS) * counts.vocabulary * 12
    parts = {
        "weights": weights / GIB,
        "adapter and optimizer": trainable * TRAINABLE_BYTES / GIB,
        "activations": activations / GIB,
        "logits": logits / GIB,
        "reserve": RESERVE_GIB,
    }
    held = settings.quantization if settings.quantization != "none" else f"{width} B each"
    lines = [
        f"weights: {counts.total / 1e9:.2f} B parameters, {held} = {parts['weights']:.1f} GiB",
        f"adapter: {trainable / 1e6:.1f} M x {TRAINABLE_BYTES} B = {parts['adapter and optimizer']:.1f} GiB",
        f"activations: {settings.per_device_train_batch_size} x {settings.max_length} tokens x ({kept}) "
        f"= {parts['activations']:.1f} GiB",
        f"logits: {min(tokens, LOGITS_CHUNK_TOKENS)} tokens x {counts.vocabulary:,} x 12 B = {parts['logits']:.1f} GiB",
        f"memory of a card: {sum(parts.values()):.1f} GiB with {RESERVE_GIB:.0f} GiB in reserve",
    ]
    return parts, lines


def weight_bytes(counts: Parameters, settings: TrainSettings, width: int) -> float:
    """Bytes of the frozen base: linear layers as quantised, everything else (experts too) at `width` bytes a weight."""
    if settings.quantization == "none":
        return counts.total * width
    quantised = counts.linear_total + counts.vision
    if settings.quantization == "8bit":
        each = 1.0
    else:
        each = BYTES_4BIT[settings.bits4.use_double_quant if settings.bits4 else True]
    return quantised * each + (counts.total - quantised) * width


def checkpoint_bytes(counts: Parameters, settings: TrainSettings) -> int:
    """Bytes of one checkpoint: float32 adapter, two Adam moments, and some 16 MB of tokenizer and state."""
    return lora_parameters(counts, settings.lora) * 12 + 16_000_000
