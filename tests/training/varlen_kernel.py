"""A reference for PyTorch's variable-length kernels on the CPU, which has none: plain attention by document."""

from collections.abc import Iterator, Sequence

import torch
from torch.nn.attention import varlen

Three = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def forward(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    _bounds_k: torch.Tensor,
    max_q: int,
    _max_k: int,
    is_causal: bool = False,
    scale: float | None = None,
    window: Sequence[int] | None = None,
    *_: object,
) -> Three:
    """query, key, value [tokens, heads, size]; of what it gives the output alone is real."""
    assert is_causal and list(window or []) == [-1, 0]
    assert bounds[0] == 0 and bounds[-1] == len(query) and max_q == bounds.diff().max()
    out = [_weights(q, k, scale) @ v for q, k, v in _documents(query, key, value, bounds)]
    joined = torch.cat(out, dim=1).transpose(0, 1).contiguous()
    return joined, torch.zeros(query.shape[1], len(query)), torch.zeros(2, dtype=torch.uint64)


def backward(
    grad_out: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _out: torch.Tensor,
    _lse: torch.Tensor,
    bounds: torch.Tensor,
    _bounds_k: torch.Tensor,
    _max_q: int,
    _max_k: int,
    _is_causal: bool,
    _rng: torch.Tensor,
    scale: float | None = None,
    window: Sequence[int] | None = None,
) -> Three:
    """Gradients with respect to query, key and value; those of grouped heads add up."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    found: list[list[torch.Tensor]] = [[], [], []]
    wanted = _documents(grad_out, grad_out, grad_out, bounds)
    for (q, k, v), (grad, _, _) in zip(_documents(query, key, value, bounds), wanted, strict=True):
        weights = _weights(q, k, scale)
        by_weight = grad @ v.mT
        by_score = weights * (by_weight - (by_weight * weights).sum(-1, keepdim=True)) * scale
        for place, one in enumerate((by_score @ k, by_score.mT @ q, weights.mT @ grad)):
            found[place].append(one)
    whole = [torch.cat(parts, dim=1).transpose(0, 1) for parts in found]
    groups = (query.shape[1] // key.shape[1], key.shape[1])
    first, second, third = whole[0], *(one.unflatten(1, groups[::-1]).sum(2) for one in whole[1:])
    return first.contiguous(), second.contiguous(), third.contiguous()


def _documents(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: torch.Tensor) -> Iterator[Three]:
    """Each document's query, key and value, [heads, tokens, size], keys repeated for their groups of heads."""
    groups = query.shape[1] // key.shape[1]
    whole = (query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1))
    yield from zip(*(one.transpose(0, 1).split(bounds.diff().tolist(), dim=1) for one in whole), strict=True)


def _weights(query: torch.Tensor, key: torch.Tensor, scale: float | None) -> torch.Tensor:
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    return scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)


varlen._varlen_attn.register_kernel("cpu")(forward)
varlen._varlen_attn_backward.register_kernel("cpu")(backward)
