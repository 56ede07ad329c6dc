"""What this machine's card does in hardware: number format, attention kernels, bitsandbytes.

Decided from the compute capability: `torch.cuda.is_bf16_supported()` counts emulation. What the run's lock or the
recipe asks for and the card cannot do is a UserError, since another format would be another result.
"""

import importlib.util
import logging
import os
from typing import Literal, cast, get_args

import torch

from pipeline.errors import UserError
from pipeline.recipe.profiles import Execution

LOG = logging.getLogger(__name__)
Device = Literal["cuda", "cpu"]
Precision = Literal["bf16", "fp16", "fp32"]
Attention = Literal["sdpa", "varlen", "flash_attention_2", "eager"]
END_TO_END: frozenset[Attention] = frozenset({"varlen", "flash_attention_2"})
"""Attention that takes rows laid end to end, each for itself; the others take padded rows."""
DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
BF16_CAPABILITY = (8, 0)


def device_name() -> str:
    """The card's name with its memory in GiB, or `cpu`."""
    if not torch.cuda.is_available():
        return "cpu"
    properties = torch.cuda.get_device_properties(0)
    return f"{properties.name} ({properties.total_memory / 2**30:.0f} GiB)"


def require_device(execution: Execution) -> None:
    """UserError when this process does not have what the run's lock says: a card of its own, other processes."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes != execution.world_size:
        raise UserError(
            f"the run's lock says that {execution.world_size} processes train together, and this is one of {processes}",
            "Start `hanforge stage`, which starts as many as the lock says, and leave WORLD_SIZE unset.",
        )
    cards, wanted = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0")) + 1
    if execution.device == "cuda" and cards < wanted:
        raise UserError(
            f"the run's lock says that this stage trains on {wanted} GPUs or more here, and torch sees {cards}",
            "Run it on a machine with those cards, or start a run with another profile (--profile cpu).",
        )


def choose_precision(asked: str, *, device: Device, capability: tuple[int, int] | None) -> Precision:
    """The number format of the forward pass: what was asked, or the best that the hardware has.

    Example: ("auto", cuda, (9, 0)) -> "bf16"; ("auto", cuda, (7, 5)) -> "fp16"; ("auto", cpu) -> "fp32"
    """
    has_bf16 = device == "cuda" and capability is not None and capability >= BF16_CAPABILITY
    if asked == "auto":
        if device == "cpu":
            return "fp32"
        return "bf16" if has_bf16 else "fp16"
    if asked == "bf16" and device == "cuda" and not has_bf16:
        raise UserError(
            f"precision 'bf16' on a card of compute capability {capability}: only emulated below {BF16_CAPABILITY}",
            "Set precision: fp16, or choose a profile with an Ampere card or newer.",
        )
    if asked == "fp16" and device == "cpu":
        raise UserError("precision 'fp16' on a CPU: gradients would overflow", "Set precision: auto or fp32.")
    if asked not in DTYPES:
        raise UserError(f"unknown precision {asked!r}", f"Known: auto, {', '.join(DTYPES)}.")
    return asked


def capability_here() -> tuple[int, int] | None:
    """The first card's compute capability; None without a card."""
    return torch.cuda.get_device_capability(0) if torch.cuda.is_available() else None


def choose_attention(asked: str, precision: Precision = "bf16", *, training: bool = True) -> Attention:
    """The attention kernels that this machine has: what was asked, or the nearest to it.

    FlashAttention's kernels come as a package (flash_attention_2) or with PyTorch (varlen, for training only); both
    want half precision and an Ampere card. The user's recipes name flash_attention_2 with a fallback, so what is
    missing is a log line and not an error.
    """
    if asked not in ("auto", *get_args(Attention)):
        raise UserError(f"unknown attention {asked!r}", f"Known: auto, {', '.join(get_args(Attention))}.")
    if asked in ("sdpa", "eager"):
        return cast(Attention, asked)
    capability = capability_here()
    ampere = capability is not None and capability >= BF16_CAPABILITY and precision != "fp32"
    usable: dict[str, bool] = {
        "flash_attention_2": ampere and asked != "varlen" and _installed("flash_attn"),
        "varlen": ampere and training and _installed("torch.nn.attention.varlen"),
    }
    chosen = next((name for name, is_usable in usable.items() if is_usable), "sdpa")
    if asked == "flash_attention_2" and chosen != asked:
        LOG.warning("attention: %s is not usable here (package or card is missing); using %s", asked, chosen)
    return cast(Attention, chosen)


def require_packages(names: list[str]) -> None:
    """UserError for reporting packages that a recipe names and that are not installed."""
    missing = [name for name in names if not _installed(name)]
    if missing:
        raise UserError(
            f"report_to names {missing}, which are not installed here",
            f"pip install {' '.join(missing)}, or leave them out of report_to.",
        )


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
