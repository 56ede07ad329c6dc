"""Attention over rows laid end to end: FlashAttention's variable-length kernels, which PyTorch itself carries.

Every document attends to itself alone, by its bounds and not by a mask, so that nothing is padded and nothing is
quadratic in the length of the whole. Registered with transformers under the name `varlen`; for training only.
"""

import inspect
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn

from pipeline.errors import UserError

NAME = "varlen"
# Before torch 2.12 the kernels took fewer heads of keys than of queries without being told.
_GROUPED: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each document; a function as transformers' AttentionInterface calls it.

    query is [1, heads, tokens, size], key and value [1, key heads, tokens, size] in half precision; cu_seq_lens_q
    int32 [documents + 1] holds the documents' bounds, the last being `tokens`; max_length_q is the longest document.
    Gives [1, tokens, heads, size]. UserError for what these kernels do not do.
    """
    if dropout or softcap is not None or s_aux is not None:
        raise UserError(
            f"attention {NAME!r} has no dropout, softcap and sinks, and {type(module).__name__} wants one of them",
            "Set attention: sdpa.",
        )
    if torch.is_autocast_enabled(query.device.type):  # as SDPA under autocast
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    out: Any = varlen_attn(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        cu_seq_lens_q,
        cu_seq_lens_q,
        max_length_q,
        max_length_q,
        scale=scaling,
        window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
        **_GROUPED,
    )
    return out[None], None


def register() -> None:
    """Make the name known to transformers. No mask function comes with it, so that models build no mask."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)


def check_model(model: Any) -> None:
    """UserError for a model whose documents would see each other: it has attention, or a state, of its own making."""
    if not model._supports_attention_backend or model._is_stateful:
        raise UserError(
            f"{type(model).__name__} cannot take rows laid end to end: it keeps a state or attention of its own",
            "Set attention: sdpa.",
        )
