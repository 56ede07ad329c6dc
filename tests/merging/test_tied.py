"""A model whose head reads its embedding: what happens when one or both of them were trained."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.merging.merge import merge_checkpoint
from tests.merging.checkpoints import adapt, gpt2, logits, peft_model, qwen3
from tests.merging.test_merge import weights

# name -> (adapter, whether head and embedding part ways)
CASES: dict[str, tuple[dict[str, Any], bool]] = {
    "neither": ({"target_modules": ["q_proj"]}, False),
    "both, apart": ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}, True),
    "embedding alone": ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, True),
    "head alone": ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, True),
    "embedding adapted": ({"target_modules": ["q_proj", "embed_tokens"]}, True),
    "head adapted": ({"target_modules": ["q_proj", "lm_head"]}, True),
    "kept as one": (
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        False,
    ),
    "rows": ({"target_modules": ["q_proj"], "trainable_token_indices": [3, 1]}, False),
}


@pytest.mark.parametrize("case", CASES)
def test_the_merged_model_answers_as_the_trained_one_did(tmp_path: Path, case: str) -> None:
    config, parts = CASES[case]
    base = qwen3(tmp_path / "base", tie_word_embeddings=True)
    adapter = adapt(base, tmp_path / "adapter", **config)
    plan = merge_checkpoint(base, adapter, tmp_path / "merged")

    written = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert plan.untied == parts
    assert written["tie_word_embeddings"] is not parts
    assert ("lm_head.weight" in weights(tmp_path / "merged")) == parts
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    expected = logits(peft_model(base, adapter, dtype=torch.float32))
    torch.testing.assert_close(logits(again), expected, atol=0.02, rtol=0.02)


def test_an_untied_model_takes_an_adapter_of_its_own_head(tmp_path: Path) -> None:
    """A second phase trains on the result of the first, whose head came apart there."""
    base = qwen3(tmp_path / "base", tie_word_embeddings=True)
    first = adapt(base, tmp_path / "first", target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    merge_checkpoint(base, first, tmp_path / "one")
    second = adapt(
        tmp_path / "one", tmp_path / "second", seed=5, target_modules=["q_proj"], modules_to_save=["lm_head"]
    )
    merge_checkpoint(tmp_path / "one", second, tmp_path / "two")
    theirs = peft_model(tmp_path / "one", second).merge_and_unload().state_dict()
    ours = weights(tmp_path / "two")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_a_family_whose_names_differ_is_untied_by_its_own_names(tmp_path: Path) -> None:
    base = gpt2(tmp_path / "base")
    adapter = adapt(
        base, tmp_path / "adapter", target_modules=["c_attn"], modules_to_save=["wte", "lm_head"], fan_in_fan_out=True
    )
    assert merge_checkpoint(base, adapter, tmp_path / "merged").untied
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(again), logits(peft_model(base, adapter)), atol=0.02, rtol=0.02)
