"""Rows laid end to end give the loss and the gradients that they give padded. The kernels' own check runs on a GPU:
benchmarks/attention.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from pipeline.errors import UserError
from pipeline.training import varlen
from pipeline.training.architecture import read_architecture
from pipeline.training.collator import CausalCollator, end_to_end, pieces
from pipeline.training.data import open_dataset, write_dataset, write_packed
from pipeline.training.masks import IGNORED, Encoded
from pipeline.training.model import load_base, lora_config
from pipeline.training.settings import LoraSettings, TrainSettings
from pipeline.training.trainer import Cadence, build_trainer, sft_arguments
from tests.training import checkpoints, varlen_kernel

assert varlen_kernel


def test_documents_lie_end_to_end_with_bounds_and_no_padding() -> None:
    rows = [
        {"input_ids": [5, 6], "labels": [5, 6], "seq_lengths": [2]},
        {"input_ids": [7, 8, 9, 4], "labels": [IGNORED, 8, 9, IGNORED], "seq_lengths": [3, 1]},
    ]
    batch = end_to_end(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 4]]
    assert batch["labels"].tolist() == [[IGNORED, 6, IGNORED, 8, 9, IGNORED]]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2, 0]]
    assert batch["cu_seq_lens_q"].tolist() == [0, 2, 5, 6] and batch["cu_seq_lens_q"].dtype == torch.int32
    assert batch["max_length_q"] == batch["max_length_k"] == 3


def test_pieces_end_between_documents_and_hold_every_token_once() -> None:
    lengths = [3, 1, 5, 2, 2, 2]
    batch = end_to_end([_row(list(range(n)), 0) for n in lengths])
    cut = pieces(batch, 5)
    assert [piece["cu_seq_lens_q"].tolist() for piece in cut] == [[0, 3, 4], [0, 5], [0, 2, 4], [0, 2]]
    assert [piece["max_length_q"] for piece in cut] == [3, 5, 2, 2]
    for name in ("input_ids", "labels", "position_ids"):
        assert torch.equal(torch.cat([piece[name] for piece in cut], dim=1), batch[name])
    assert len(pieces(batch, 15)) == 1
    assert [piece["input_ids"].shape[1] for piece in pieces(batch, 1)] == lengths


def _row(ids: list[int], given: int) -> dict[str, Any]:
    return {"input_ids": ids, "labels": [IGNORED] * given + ids[given:], "seq_lengths": [len(ids)]}


FAMILIES = {"qwen2": checkpoints.qwen2, "llama": checkpoints.llama, "qwen3_vl": checkpoints.qwen3_vl}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_end_to_end_has_the_loss_and_gradients_of_padded_rows(family: str, tmp_path: Path) -> None:
    base = FAMILIES[family](tmp_path / "base")
    padded = _step(base, tmp_path / "padded", "sdpa")
    ways: dict[str, dict[str, Any]] = {
        "whole": {},
        "in pieces": {"max_length": 40},
        "packed": {"max_length": 80, "packing": True},
    }
    for name, settings in ways.items():
        laid = _step(base, tmp_path / name, "varlen", **settings)
        assert laid.losses == pytest.approx(padded.losses, rel=1e-5), name
        assert laid.tokens == padded.tokens == 125
        torch.testing.assert_close(laid.gradients, padded.gradients, rtol=1e-4, atol=1e-6, msg=name)


class Kept(TrainerCallback):  # type: ignore[misc]
    """The adapter's gradients before the optimizer takes them."""

    gradients = torch.empty(0)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.gradients = torch.cat([p.grad.flatten().clone() for p in model.parameters() if p.requires_grad])


@dataclass
class Step:
    """What one optimizer step of six rows, 2 x 3, gave."""

    losses: dict[str, float]
    gradients: torch.Tensor
    tokens: int


def _step(base: Path, folder: Path, attention: Any, max_length: int = 128, packing: bool = False) -> Step:
    settings = TrainSettings(
        base=str(base),
        data="rows",
        max_length=max_length,
        max_steps=1,
        max_grad_norm=0.0,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=3,
        gradient_checkpointing=False,
        logging_steps=1,
        packing=packing,
        report_to=[],
        lora=LoraSettings(r=4, lora_alpha=8),
    )
    generator = torch.Generator().manual_seed(5)
    rows = [torch.randint(11, 500, (n,), generator=generator).tolist() for n in (3, 40, 17, 9, 25, 31)]
    encoded = [Encoded(ids, _row(ids, len(ids) // 3)["labels"]) for ids in rows]
    folder.mkdir()
    dataset = plain = open_dataset(write_dataset(folder / "rows.arrow", encoded))
    if packing:
        dataset = open_dataset(write_packed(folder / "packed.arrow", plain, max_length))
    architecture, laid = read_architecture(base), attention == varlen.NAME
    model = load_base(base, architecture, settings, "fp32", attention, "cpu")
    kept, losses = Kept(), dict[str, float]()
    trainer = build_trainer(
        model,
        checkpoints.tokenizer(),
        sft_arguments(settings, folder / "out", "fp32", device="cpu", laid_end_to_end=laid),
        lora_config(model, architecture, settings.lora),
        dataset,
        plain,
        cadence=Cadence(on_log=lambda _, logs: losses.update(logs), evaluates=True),
        tokens_at_once=settings.tokens_at_once if laid else None,
    )
    trainer.add_callback(kept)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:  # zero at the start: A would have no gradient
            parameter.data.fill_(0.02)
    trainer.train()
    return Step({name: losses[name] for name in ("loss", "eval_loss")}, kept.gradients, trainer.tokens_seen)


def test_a_model_that_would_mix_documents_is_refused() -> None:
    class Recurrent:
        _supports_attention_backend = True
        _is_stateful = True

    with pytest.raises(UserError, match="Recurrent cannot take rows laid end to end"):
        varlen.check_model(Recurrent())


def test_attention_that_the_kernels_lack_is_refused() -> None:
    values = [torch.zeros(1, 2, 3, 8)] * 3
    bounds = torch.tensor([0, 3], dtype=torch.int32)
    with pytest.raises(UserError, match="Set attention: sdpa"):
        varlen.attend(torch.nn.Module(), *values, None, cu_seq_lens_q=bounds, max_length_q=3, softcap=30.0)


def test_padded_rows_keep_their_shape() -> None:
    batch = CausalCollator(0, 8)([_row([5, 6, 7], 1)])
    assert batch["input_ids"].shape == (1, 8) and set(batch) == {"input_ids", "labels", "position_ids"}
