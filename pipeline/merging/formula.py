"""The arithmetic of a merge, all of it in float32, each result rounded once.

LoRA: W + s * (B @ A). DoRA (arXiv 2402.09353, section 4): m / ||V|| * V with V = W + s * (B @ A). Both are what
PEFT 0.21's `merge_and_unload` computes from float32 factors; from 16-bit factors PEFT rounds the product first, this
does not.
Memory: one float32 matrix of the weight's shape, and blocks.
"""

import math
import os
from collections.abc import Iterator

import numpy as np
import torch

from pipeline.errors import UserError
from pipeline.merging.adapter import LowRank
from pipeline.merging.checkpoint import ITEM_BYTES, StoredTensor
from pipeline.merging.plan import MergedTensor

TORCH_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
}  # fmt: skip
BLOCK_BYTES = 16 << 20


def read_tensor(stored: StoredTensor) -> torch.Tensor:
    """A whole stored tensor, in its own type and shape."""
    return read_items(stored, 0, math.prod(stored.shape)).reshape(stored.shape)


def read_items(stored: StoredTensor, first: int, last: int) -> torch.Tensor:
    """Items `[first, last)` of a stored floating-point tensor, counted in its flat order (read, not mapped)."""
    width = ITEM_BYTES[stored.dtype]
    raw = np.fromfile(stored.file, np.uint8, (last - first) * width, offset=stored.start + first * width)
    if len(raw) < (last - first) * width:
        raise UserError(f"{stored.file} ended inside {stored.name!r}", "Fetch or produce it again.")
    return torch.from_numpy(raw).view(TORCH_DTYPES[stored.dtype])


def delta(low_rank: LowRank, transposed: bool) -> torch.Tensor:
    """s * (B @ A) in float32, shaped as the weight: [out, in], or a view [in, out] for `Conv1D` and embeddings."""
    product = read_tensor(low_rank.b).float() @ read_tensor(low_rank.a).float()
    product.mul_(low_rank.scaling)
    return product.T if transposed or low_rank.embedding else product


def merged_blocks(tensor: MergedTensor) -> Iterator[torch.Tensor]:
    """The changed tensor's values in its result type, in order, in blocks of rows of about 16 MiB in float32.

    Raises UserError when a value is not finite: an overflow of fp16, or a broken adapter.
    """
    change = tensor.change
    source = change.replacement if change and change.replacement else tensor.base
    target = TORCH_DTYPES[tensor.dtype]
    if change and change.low_rank:
        whole = delta(change.low_rank, tensor.transposed)
        for first, last in _row_blocks(tensor):
            whole[first:last].add_(_rows(source, tensor, first, last))
        if change.low_rank.magnitude:
            _into_dora(whole, change.low_rank, tensor)
        for first, last in _row_blocks(tensor):
            yield _rounded(whole[first:last], target, tensor)
        return
    for first, last in _row_blocks(tensor):
        block = _rows(source, tensor, first, last)
        if change and change.added:
            block = block.float() + change.added_scaling * read_items(change.added, first, last).float()
        yield _rounded(block, target, tensor)


def _row_blocks(tensor: MergedTensor) -> Iterator[tuple[int, int]]:
    """Ranges of the first dimension that hold about BLOCK_BYTES in float32; a scalar is one row."""
    rows = tensor.shape[0] if tensor.shape else 1
    step = max(1, BLOCK_BYTES // (4 * max(1, math.prod(tensor.shape[1:]))))
    return ((first, min(first + step, rows)) for first in range(0, rows, step))


def _rows(source: StoredTensor, tensor: MergedTensor, first: int, last: int) -> torch.Tensor:
    width = math.prod(tensor.shape[1:])
    return read_items(source, first * width, last * width).reshape(-1, *tensor.shape[1:])


def _into_dora(whole: torch.Tensor, low_rank: LowRank, tensor: MergedTensor) -> None:
    """Turn V into m / ||V|| * V, in place. The norm runs over a weight's inputs, over an embedding's vocabulary."""
    assert low_rank.magnitude is not None
    magnitude = read_tensor(low_rank.magnitude).float().view(-1)
    if tensor.transposed or low_rank.embedding:
        whole.mul_((magnitude / torch.linalg.norm(whole.T, dim=1)).view(1, -1))
    else:
        whole.mul_((magnitude / torch.linalg.norm(whole, dim=1)).view(-1, 1))


def _rounded(block: torch.Tensor, target: torch.dtype, tensor: MergedTensor) -> torch.Tensor:
    result = block.to(target)
    if not torch.isfinite(result).all():
        cause = "does not fit float16" if torch.isfinite(block).all() else "is not finite"
        raise UserError(
            f"{tensor.name!r}: a merged value {cause} ({block.abs().max().item():.4g})",
            "Use dtype bf16, or train again: the adapter diverged.",
        )
    return result


def write_rows(descriptor: int, offset: int, tensor: MergedTensor) -> None:
    """Put trained rows over the rows of a tensor that is already written at `offset` of the open file."""
    assert tensor.change is not None and tensor.change.rows is not None
    rows = _rounded(read_tensor(tensor.change.rows), TORCH_DTYPES[tensor.dtype], tensor)
    width = rows.shape[1] * ITEM_BYTES[tensor.dtype]
    for index, row in zip(tensor.change.row_indices, rows, strict=True):
        os.pwrite(descriptor, as_bytes(row), offset + index * width)


def as_bytes(values: torch.Tensor) -> memoryview:
    """The raw bytes of a contiguous tensor, without a copy."""
    return values.contiguous().view(torch.uint8).numpy().data
