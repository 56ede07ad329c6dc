"""Batches for a causal model: rows padded on the right, or laid end to end without padding.

No attention mask is made. Padded: under causal attention no token looks at the padding to its right, whose own outputs
carry no loss; packed documents are told apart by positions that begin again at 0. End to end: every document has its
bounds, by which FlashAttention's variable-length kernels keep it to itself.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.training.masks import IGNORED

Batch = dict[str, Any]


@dataclass(frozen=True)
class CausalCollator:
    """Rows {"input_ids", "labels", "seq_lengths"} -> int64 tensors input_ids, labels, position_ids of [batch, length].

    `pad_to_multiple_of` bounds the number of shapes.
    Example: seq_lengths [2, 3] padded to 8 -> position_ids [0, 1, 0, 1, 2, 0, 1, 2]
    """

    pad_token_id: int
    pad_to_multiple_of: int = 8

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
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
        return batch


def _positions(lengths: list[int], total: int) -> torch.Tensor:
    """Positions of documents one after another. A single document's padding goes on counting, so that nothing looks
    packed; after several, the padding is one more document."""
    if len(lengths) == 1:
        return torch.arange(total)
    used = sum(lengths)
    parts = [torch.arange(length) for length in lengths]
    return torch.cat([*parts, torch.arange(total - used)])


def end_to_end(rows: list[dict[str, Any]]) -> Batch:
    """Rows laid one after another: input_ids, labels and position_ids of [1, tokens], and the documents' bounds.

    The first token of each document carries no loss: else the document before it would be trained to predict it.
    Example: rows of seq_lengths [2] and [3, 1] -> position_ids [[0, 1, 0, 1, 2, 0]], bounds [0, 2, 5, 6], longest 3
    """
    lengths = [length for row in rows for length in row["seq_lengths"]]
    bounds = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    labels = torch.cat([torch.as_tensor(row["labels"]) for row in rows])
    labels[bounds[:-1].long()] = IGNORED
    return {
        "input_ids": torch.cat([torch.as_tensor(row["input_ids"]) for row in rows])[None],
        "labels": labels[None],
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        **_documents(bounds, max(lengths)),
    }


def pieces(batch: Batch, tokens: int) -> list[Batch]:
    """Cut what `end_to_end` made between documents into batches of at most `tokens` tokens, as few as that takes.

    A document longer than `tokens` is a piece of its own.
    Example: bounds [0, 2, 5, 6] at 4 tokens -> pieces with bounds [0, 2] and [0, 3, 4]
    """
    bounds = batch["cu_seq_lens_q"].tolist()
    cuts = [0]
    for number, end in enumerate(bounds[1:], 1):
        if end - bounds[cuts[-1]] > tokens and number - 1 > cuts[-1]:
            cuts.append(number - 1)
    cuts.append(len(bounds) - 1)
    return [_piece(batch, bounds, first, last) for first, last in itertools.pairwise(cuts)]


def _piece(batch: Batch, bounds: list[int], first: int, last: int) -> Batch:
    """Documents `first` to `last` (left out) of a batch laid end to end."""
    start, end = bounds[first], bounds[last]
    longest = max(after - before for before, after in itertools.pairwise(bounds[first : last + 1]))
    cut = {name: batch[name][:, start:end] for name in ("input_ids", "labels", "position_ids")}
    return {**cut, **_documents(batch["cu_seq_lens_q"][first : last + 1] - start, longest)}


def _documents(bounds: torch.Tensor, longest: int) -> Batch:
    """The documents' bounds under the names that transformers' FlashAttentionKwargs give them."""
    return {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}
