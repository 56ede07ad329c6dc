"""Batches for a causal model: padded on the right, documents kept apart by positions that begin again at 0.

No attention mask is made: under causal attention no token looks at the padding to its right, and the padding's own
outputs carry no loss. Without a mask, SDPA takes its fastest path; packed documents are told apart by `position_ids`.
"""

from dataclasses import dataclass
from typing import Any

import torch

from pipeline.training.masks import IGNORED


@dataclass(frozen=True)
class CausalCollator:
    """Rows {"input_ids", "labels", "seq_lengths"} -> int64 tensors input_ids, labels, position_ids of [batch, length].

    `pad_to_multiple_of` bounds the number of shapes. `flatten` joins the batch into one row, as FlashAttention's
    variable-length kernels want packed documents: [1, batch * length].
    Example: seq_lengths [2, 3] padded to 8 -> position_ids [0, 1, 0, 1, 2, 0, 1, 2]
    """

    pad_token_id: int
    pad_to_multiple_of: int = 8
    flatten: bool = False

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        length = -(-longest // self.pad_to_multiple_of) * self.pad_to_multiple_of
        batch = {
            "input_ids": torch.full((len(rows), length), self.pad_token_id),
            "labels": torch.full((len(rows), length), IGNORED),
            "position_ids": torch.zeros((len(rows), length), dtype=torch.long),
        }
        for place, row in enumerate(rows):
            used = len(row["input_ids"])
            batch["input_ids"][place, :used] = torch.as_tensor(row["input_ids"])
            batch["labels"][place, :used] = torch.as_tensor(row["labels"])
            batch["position_ids"][place] = _positions(row["seq_lengths"], length)
        if self.flatten:
            return {name: values.reshape(1, -1) for name, values in batch.items()}
        return batch


def _positions(lengths: list[int], total: int) -> torch.Tensor:
    """Positions of documents one after another. A single document's padding goes on counting, so that nothing looks
    packed; after several, the padding is one more document."""
    if len(lengths) == 1:
        return torch.arange(total)
    used = sum(lengths)
    parts = [torch.arange(length) for length in lengths]
    return torch.cat([*parts, torch.arange(total - used)])
