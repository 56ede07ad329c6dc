"""Vision-language checkpoints, whose names on disk and in memory differ in some families."""

from pathlib import Path

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from pipeline.errors import UserError
from pipeline.merging.merge import merge_checkpoint
from tests.merging.checkpoints import adapt, peft_model, qwen3, save
from tests.merging.test_merge import weights

TEXT = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
LANGUAGE = r".*language_model.*\.(q_proj|v_proj|down_proj)"


def qwen3_vl() -> PreTrainedModel:
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0, "mrope_interleaved": True}
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
    vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 16}
    text = {**TEXT, "head_dim": 16, "rope_parameters": rope}
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision))


def qwen2_vl() -> PreTrainedModel:
    vision = {"depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": 32, "mlp_ratio": 1}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    text = {**TEXT, "rope_parameters": rope}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision))


def llava() -> PreTrainedModel:
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 8, "patch_size": 4}
    config = LlavaConfig(vision_config=CLIPVisionConfig(**vision), text_config=LlamaConfig(**TEXT))
    return LlavaForConditionalGeneration(config)


@pytest.mark.parametrize("family", [qwen3_vl, qwen2_vl, llava])
@pytest.mark.parametrize("trained", [[], ["lm_head", "embed_tokens"]])
def test_a_vision_language_model_merges_as_peft_does(tmp_path: Path, family, trained: list[str]) -> None:  # noqa: ANN001
    torch.manual_seed(0)
    model = family()
    base = save(model.to(torch.bfloat16), tmp_path / "base")
    adapter = adapt(
        base, tmp_path / "adapter", model_class=type(model), target_modules=LANGUAGE, modules_to_save=trained
    )
    merge_checkpoint(base, adapter, tmp_path / "merged")

    theirs = peft_model(base, adapter, type(model)).merge_and_unload()
    theirs.config.tie_word_embeddings = False
    again = type(model).from_pretrained(tmp_path / "merged").state_dict()
    assert weights(base).keys() - weights(tmp_path / "merged").keys() == set()
    assert sum(not torch.equal(value, weights(tmp_path / "merged")[name]) for name, value in weights(base).items()) >= 6
    for name, value in theirs.state_dict().items():
        assert torch.equal(again[name], value), name


def test_names_that_match_nothing_are_named(tmp_path: Path) -> None:
    base, deeper = qwen3(tmp_path / "base"), qwen3(tmp_path / "deeper", num_hidden_layers=3)
    adapter = adapt(deeper, tmp_path / "adapter", target_modules=["q_proj"])
    with pytest.raises(UserError, match=r"2 trained tensors match nothing .*layers\.2\.self_attn\.q_proj\.lora_A"):
        merge_checkpoint(base, adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
