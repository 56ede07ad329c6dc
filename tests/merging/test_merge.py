"""Merged weights against PEFT's own result and against the float32 formula, for every kind of LoRA."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from pipeline.merging.merge import merge_checkpoint
from tests.merging.checkpoints import adapt, gpt2, logits, peft_model, qwen3

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"target_modules": LAYERS},
    "rslora": {"target_modules": LAYERS, "use_rslora": True},
    "dora": {"target_modules": LAYERS, "use_dora": True},
    "patterns": {
        "target_modules": LAYERS,
        "rank_pattern": {"up_proj": 2, r"layers\.1\.self_attn\.q_proj": 8},
        "alpha_pattern": {"layers.0.mlp.down_proj": 9, "q_proj": 5},
    },
    "bias of all": {"target_modules": ["q_proj"], "bias": "all"},
    "bias of the adapted": {"target_modules": ["q_proj", "v_proj"], "bias": "lora_only"},
    "bias of the adapter": {"target_modules": ["q_proj", "v_proj"], "lora_bias": True},
    "embeddings trained": {"target_modules": LAYERS, "modules_to_save": ["embed_tokens", "lm_head"]},
    "embeddings adapted": {"target_modules": ["embed_tokens", "q_proj"]},
    "embeddings adapted by dora": {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True},
    "head adapted": {"target_modules": ["q_proj", "lm_head"]},
    "tokens trained": {
        "target_modules": ["q_proj"],
        "trainable_token_indices": {"embed_tokens": [3, 1], "lm_head": [5]},
    },
}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


def assert_within_one_rounding(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal, or neighbours among bf16 numbers: of one sign, their bit patterns differ by one."""
    apart = (ours.view(torch.int16).int() - theirs.to(torch.bfloat16).view(torch.int16).int()).abs()
    assert int(apart.max()) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_merge_equals_pefts_in_float32_rounded_once(tmp_path: Path, kind: str) -> None:
    base = qwen3(tmp_path / "base")
    adapter = adapt(base, tmp_path / "adapter", **KINDS[kind])
    merge_checkpoint(base, adapter, tmp_path / "merged")

    ours = weights(tmp_path / "merged")
    theirs = peft_model(base, adapter, dtype=torch.float32).merge_and_unload().state_dict()
    assert ours.keys() == theirs.keys()
    assert any(not torch.equal(ours[name], value) for name, value in weights(base).items())
    for name, value in theirs.items():
        assert ours[name].dtype == torch.bfloat16
        if "dora" in kind:  # PEFT divides by the norm of another memory layout
            assert_within_one_rounding(ours[name], value)
        else:
            assert torch.equal(ours[name], value.to(torch.bfloat16)), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_merge_equals_pefts_on_the_16_bit_base(tmp_path: Path, kind: str) -> None:
    base = qwen3(tmp_path / "base")
    adapter = adapt(base, tmp_path / "adapter", **KINDS[kind])
    merge_checkpoint(base, adapter, tmp_path / "merged")

    ours = weights(tmp_path / "merged")
    model = peft_model(base, adapter)
    expected = logits(peft_model(base, adapter, dtype=torch.float32))
    for name, value in model.merge_and_unload().state_dict().items():
        if "embeddings adapted" in kind and name == "model.embed_tokens.weight":
            # PEFT rounds an embedding's delta before it adds it: half a unit in the last place of the delta more
            torch.testing.assert_close(ours[name], value, atol=2e-3, rtol=2**-7)
        elif "dora" in kind:
            assert_within_one_rounding(ours[name], value)
        else:
            assert torch.equal(ours[name], value), name
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(again), expected, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("kind", ["lora", "rslora"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_weight_is_the_float32_formula_bit_by_bit(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    base = qwen3(tmp_path / "base")
    adapter = adapt(base, tmp_path / "adapter", dtype=dtype, **KINDS[kind])
    merge_checkpoint(base, adapter, tmp_path / "merged")

    factors = load_file(adapter / "adapter_model.safetensors")
    scale = 6 / 4 if kind == "lora" else 6 / 4**0.5
    original, merged = weights(base), weights(tmp_path / "merged")
    for name, weight in original.items():
        key = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{key}.lora_A.weight" not in factors:
            assert torch.equal(merged[name], weight)
            continue
        a, b = factors[f"{key}.lora_A.weight"].float(), factors[f"{key}.lora_B.weight"].float()
        assert torch.equal(merged[name], (weight.float() + scale * (b @ a)).to(torch.bfloat16))


def test_dora_is_the_float32_formula_bit_by_bit(tmp_path: Path) -> None:
    base = qwen3(tmp_path / "base")
    adapter = adapt(base, tmp_path / "adapter", **KINDS["dora"])
    merge_checkpoint(base, adapter, tmp_path / "merged")

    factors = load_file(adapter / "adapter_model.safetensors")
    key = "base_model.model.model.layers.1.mlp.up_proj"
    weight = weights(base)["model.layers.1.mlp.up_proj.weight"].float()
    moved = weight + 1.5 * (factors[f"{key}.lora_B.weight"] @ factors[f"{key}.lora_A.weight"])
    scale = (factors[f"{key}.lora_magnitude_vector"] / torch.linalg.norm(moved, dim=1)).view(-1, 1)
    assert torch.equal(
        weights(tmp_path / "merged")["model.layers.1.mlp.up_proj.weight"], (scale * moved).to(torch.bfloat16)
    )


def test_layers_that_are_stored_transposed(tmp_path: Path) -> None:
    base = gpt2(tmp_path / "base")
    adapter = adapt(base, tmp_path / "adapter", target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True)
    merge_checkpoint(base, adapter, tmp_path / "merged")
    theirs = peft_model(base, adapter).merge_and_unload().state_dict()
    for name, value in weights(tmp_path / "merged").items():
        assert torch.equal(value, theirs[name]), name
    torch.testing.assert_close(
        logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")),
        logits(peft_model(base, adapter)),
        atol=0.02,
        rtol=0.02,
    )


def test_dora_on_layers_that_are_stored_transposed(tmp_path: Path) -> None:
    base = gpt2(tmp_path / "base")
    adapter = adapt(base, tmp_path / "adapter", target_modules=["c_attn"], fan_in_fan_out=True, use_dora=True)
    merge_checkpoint(base, adapter, tmp_path / "merged")
    theirs = peft_model(base, adapter).merge_and_unload().state_dict()
    for name, value in weights(tmp_path / "merged").items():
        assert_within_one_rounding(value, theirs[name])


def test_the_result_is_cut_into_files_with_an_index(tmp_path: Path) -> None:
    base = qwen3(tmp_path / "base")
    adapter = adapt(base, tmp_path / "adapter", target_modules=LAYERS)
    merge_checkpoint(base, adapter, tmp_path / "whole")
    plan = merge_checkpoint(base, adapter, tmp_path / "cut", max_shard_gib=8192 / (1 << 30))
    index = json.loads((tmp_path / "cut" / "model.safetensors.index.json").read_text())

    assert len(plan.files) > 3
    assert all(file.bytes <= 8192 or len(file.tensors) == 1 for file in plan.files)
    assert set(index["weight_map"].values()) == {file.name for file in (tmp_path / "cut").glob("*.safetensors")}
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in weights(tmp_path / "whole").values())
    cut = weights(tmp_path / "cut")
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(cut[name], value)


@pytest.mark.parametrize(("dtype", "expected"), [("fp16", torch.float16), ("fp32", torch.float32)])
def test_another_dtype_is_written_with_its_config(tmp_path: Path, dtype: str, expected: torch.dtype) -> None:
    base = qwen3(tmp_path / "base")
    adapter = adapt(base, tmp_path / "adapter", target_modules=["q_proj"])
    merge_checkpoint(base, adapter, tmp_path / "merged", dtype=dtype)
    merged = weights(tmp_path / "merged")
    assert {value.dtype for value in merged.values()} == {expected}
    assert torch.equal(merged["lm_head.weight"], weights(base)["lm_head.weight"].to(expected))
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged").dtype == expected
