"""Rows to tokens: the length policies, packing, and that packed documents do not see each other."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import UserError
from pipeline.training.collator import CausalCollator
from pipeline.training.data import Rejected, Tally, open_dataset, tokenised, write_dataset, write_packed
from pipeline.training.masks import IGNORED, ChatEncoder, Encoded
from pipeline.training.packing import pack_best_fit
from tests.training.checkpoints import tokenizer
from tests.training.conftest import rows


def test_best_fit_fills_each_sequence_and_cuts_no_row() -> None:
    assert pack_best_fit([3, 6, 5, 2], 8) == [[1, 3], [2, 0]]
    lengths = [1 + (number * 7919) % 64 for number in range(500)]
    packed = pack_best_fit(lengths, 64)
    assert sorted(row for sequence in packed for row in sequence) == list(range(500))
    assert all(sum(lengths[row] for row in sequence) <= 64 for sequence in packed)
    assert len(packed) <= 1.02 * -(-sum(lengths) // 64) + 1


def test_rows_end_as_trained_or_rejected() -> None:
    encoder, data = ChatEncoder(tokenizer("qwen3")), rows(30)
    data[4]["messages"] = data[4]["messages"][:2]
    tally = Tally()
    results = list(tokenised(data, encoder, tally, max_length=60, over_length="drop"))
    assert len(results) == 30 == tally.ok + sum(tally.rejected.values())
    lengths = [
        len(one.input_ids) for one in encoder.encode([row["messages"] for row in data]) if isinstance(one, Encoded)
    ]
    assert 0 < tally.rejected["over_long"] == sum(length > 60 for length in lengths) < 29
    assert tally.rejected["nothing_to_train"] == 1
    assert isinstance(results[4], Rejected) and results[4].row is data[4]
    kept = [result for result in results if isinstance(result, Encoded)]
    assert tally.lengths == [len(result.input_ids) for result in kept]
    assert tally.trained_tokens == sum(result.trained for result in kept)


def test_a_row_cut_before_its_answer_is_rejected_and_not_trained_on_nothing() -> None:
    encoder, data = ChatEncoder(tokenizer("qwen25")), rows(1)
    data[0]["messages"][1]["content"] *= 20
    tally = Tally()
    (result,) = tokenised(data, encoder, tally, max_length=40, over_length="truncate")
    assert isinstance(result, Rejected) and result.reason == "nothing_to_train"


def test_a_system_prompt_that_fills_the_length_is_an_error() -> None:
    encoder, data = ChatEncoder(tokenizer("qwen3")), rows(2)
    data[1]["messages"][0]["content"] = "안녕" * 100
    with pytest.raises(UserError, match="system prompt '안녕"):
        list(tokenised(data, encoder, Tally(), max_length=100, over_length="drop"))


def test_padding_is_on_the_right_and_carries_no_loss() -> None:
    data = [{"input_ids": [5, 6, 7], "labels": [IGNORED, 6, 7], "seq_lengths": [3]}, _row([8, 9])]
    batch = CausalCollator(pad_token_id=0, pad_to_multiple_of=4)(data)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 0], [8, 9, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7, IGNORED], [8, 9, IGNORED, IGNORED]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3], [0, 1, 2, 3]]


def test_packed_documents_have_positions_and_first_labels_of_their_own(tmp_path: Path) -> None:
    encoded = [Encoded([1, 2, 3], [1, 2, 3]), Encoded([4, 5], [4, 5]), Encoded([6, 7, 8, 9], [6, 7, 8, 9])]
    plain = open_dataset(write_dataset(tmp_path / "plain.arrow", encoded))
    packed = open_dataset(write_packed(tmp_path / "packed.arrow", plain, 5))
    assert packed[0] == {"input_ids": [6, 7, 8, 9], "labels": [IGNORED, 7, 8, 9], "seq_lengths": [4], "length": 4}
    assert packed[1]["labels"] == [IGNORED, 2, 3, IGNORED, 5] and packed[1]["seq_lengths"] == [3, 2]
    batch = CausalCollator(0, 8)([packed[1]])
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1, 2]]


def test_packing_keeps_every_token_over_the_files_chunks(tmp_path: Path) -> None:
    made = [[row * 10 + place for place in range(1 + row * 7919 % 9)] for row in range(1200)]
    plain = open_dataset(write_dataset(tmp_path / "plain.arrow", [Encoded(ids, ids) for ids in made]))
    packed = open_dataset(write_packed(tmp_path / "packed.arrow", plain, 16))
    for sequence, members in zip(packed, pack_best_fit([len(ids) for ids in made], 16), strict=True):
        assert sequence["input_ids"] == [token for row in members for token in made[row]]
        assert sequence["labels"] == [token for row in members for token in (IGNORED, *made[row][1:])]
        assert sequence["seq_lengths"] == [len(made[row]) for row in members]


def test_a_packed_batch_gives_the_documents_own_outputs(qwen3_base: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(qwen3_base, attn_implementation="sdpa").eval()
    first, second = [11, 12, 13, 14, 15], [21, 22, 23]
    together = {**_row(first + second), "seq_lengths": [5, 3]}
    with torch.no_grad():
        packed = _logits(model, [together])[0]
        alone = [_logits(model, [_row(ids)])[0] for ids in (first, second)]
        padded = _logits(model, [_row(first), _row(second)])
    torch.testing.assert_close(packed[:5], alone[0][:5], atol=1e-5, rtol=0)
    torch.testing.assert_close(packed[5:8], alone[1][:3], atol=1e-5, rtol=0)
    torch.testing.assert_close(padded[1][:3], alone[1][:3], atol=1e-5, rtol=0)


def _row(ids: list[int]) -> dict[str, Any]:
    return {"input_ids": ids, "labels": ids, "seq_lengths": [len(ids)]}


def _logits(model: Any, data: list[dict[str, Any]]) -> torch.Tensor:
    batch = CausalCollator(0, 8)(data)
    made = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False)
    logits: torch.Tensor = made.logits
    return logits
