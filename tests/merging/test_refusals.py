"""What merge will not touch, each with a message that names it; nothing is written."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import UserError
from pipeline.merging.merge import merge_checkpoint
from tests.merging.checkpoints import adapt, qwen3


def edited(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A base and an adapter that fit."""
    base = qwen3(tmp_path / "base")
    return base, adapt(base, tmp_path / "adapter", target_modules=["q_proj"])


def refused(pair: tuple[Path, Path], match: str, **settings: Any) -> None:
    out = pair[0].parent / "merged"
    with pytest.raises(UserError, match=match) as caught:
        merge_checkpoint(*pair, out, **settings)
    assert caught.value.exit_code == 2
    assert not list(out.glob("config.json"))


def test_a_quantised_base(pair: tuple[Path, Path]) -> None:
    edited(pair[0] / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    refused(pair, r"the base is quantised \('bitsandbytes'\)")


def test_a_wider_base(pair: tuple[Path, Path], tmp_path: Path) -> None:
    wider = qwen3(tmp_path / "wider", hidden_size=64)
    refused((wider, pair[1]), r"'model.layers.0.self_attn.q_proj.weight' was trained for a weight of \[32, 32\]")


def test_embeddings_of_another_size_than_the_head(pair: tuple[Path, Path], tmp_path: Path) -> None:
    larger = qwen3(tmp_path / "larger", vocab_size=48)
    adapter = adapt(larger, tmp_path / "embeddings", target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    refused((pair[0], adapter), "embedding and head have different numbers of rows")


def test_a_resized_vocabulary_is_no_error(pair: tuple[Path, Path], tmp_path: Path) -> None:
    larger = qwen3(tmp_path / "larger", vocab_size=48)
    both = ["embed_tokens", "lm_head"]
    adapter = adapt(larger, tmp_path / "resized", target_modules=["q_proj"], modules_to_save=both)
    merge_checkpoint(pair[0], adapter, tmp_path / "merged")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["vocab_size"] == 48
    assert load_file(tmp_path / "merged" / "model.safetensors")["lm_head.weight"].shape == (48, 32)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"init_lora_weights": "pissa_niter_4"}, "changed the base's weights before training"),
        ({"target_parameters": ["experts.down_proj"]}, "target_parameters"),
        ({"use_qalora": True}, "it pools its input"),
        ({"r": 8}, "has rank 4 and its config says 8"),
        ({"use_dora": True}, "has no lora_magnitude_vector"),
        ({"auto_mapping": {"base_model_class": "LlamaForCausalLM"}}, "was trained on a LlamaForCausalLM"),
    ],
)
def test_adapters_that_are_no_plain_lora(pair: tuple[Path, Path], changes: dict[str, Any], match: str) -> None:
    edited(pair[1] / "adapter_config.json", **changes)
    refused(pair, match)


def test_half_an_adapter(pair: tuple[Path, Path]) -> None:
    file = pair[1] / "adapter_model.safetensors"
    tensors = load_file(file)
    del tensors["base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"]
    save_file(tensors, file)
    refused(pair, "'model.layers.1.self_attn.q_proj' has no matching pair of lora_A and lora_B")


def test_files_that_are_cut_or_missing(pair: tuple[Path, Path]) -> None:
    weights = pair[0] / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    refused(pair, "is cut short")
    weights.write_bytes(whole[:6])
    refused(pair, "is not a whole safetensors file")
    weights.rename(pair[0] / "pytorch_model.bin")
    refused(pair, r"has no safetensors weights, only \['pytorch_model.bin'\]")
    refused((pair[1], pair[1]), "config.json is missing")


def test_a_value_that_float16_cannot_hold(pair: tuple[Path, Path]) -> None:
    weights = pair[0] / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e6
    save_file(tensors, weights, {"format": "pt"})
    refused(pair, r"'model.layers.0.mlp.up_proj.weight': a merged value does not fit float16", dtype="fp16")
    merge_checkpoint(*pair, pair[0].parent / "other", dtype="fp32")


def test_an_adapter_that_diverged(pair: tuple[Path, Path]) -> None:
    file = pair[1] / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"][0, 0] = torch.nan
    save_file(tensors, file)
    refused(pair, "a merged value is not finite")
