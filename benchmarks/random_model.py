"""Models of real or tiny shapes with random weights, made where they are trained, and quantised there."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn

from pipeline.training import varlen
from pipeline.training.architecture import architecture_of


def tiny(config: dict[str, Any]) -> dict[str, Any]:
    """The same architecture with two layers of hidden size 128."""
    small = {
        "vocab_size": 512,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 64,
    }
    if "text_config" not in config:
        return {**config, **small}
    vision = {"depth": 1, "hidden_size": 64, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 128}
    return {
        **config,
        "text_config": {**config["text_config"], **small},
        "vision_config": {**config["vision_config"], **vision, "deepstack_visual_indexes": [0]},
    }


def random_model(config: dict[str, Any], dtype: torch.dtype, attention: str, device: str) -> Any:
    """A model of that shape with random weights, made on the device."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    architecture = architecture_of(config, "benchmark")
    auto = AutoModelForImageTextToText if architecture.vision else AutoModelForCausalLM
    if attention == varlen.NAME:
        varlen.register()
    keys = {name: value for name, value in config.items() if name != "model_type"}
    shape = AutoConfig.for_model(config["model_type"], **keys)
    with torch.device(device):
        return auto.from_config(shape, dtype=dtype, attn_implementation=attention)


def quantise(model: nn.Module, quantization: str, device: str) -> None:
    """Turn every linear layer but lm_head into bitsandbytes' 8-bit or 4-bit (nf4) layer in place, one after another."""
    import bitsandbytes as bnb

    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.Linear) or name.endswith("lm_head"):
            continue
        size, weight = (module.in_features, module.out_features, module.bias is not None), module.weight.data
        if quantization == "8bit":
            quantised = bnb.nn.Linear8bitLt(*size, has_fp16_weights=False)
            half = weight.to("cpu", torch.float16)  # they are quantised on their way to the card
            quantised.weight = bnb.nn.Int8Params(half, requires_grad=False, has_fp16_weights=False)
        else:
            quantised = bnb.nn.Linear4bit(*size, compute_dtype=module.weight.dtype, quant_type="nf4")
            quantised.weight = bnb.nn.Params4bit(weight.cpu(), requires_grad=False, quant_type="nf4", module=quantised)
        if module.bias is not None:
            quantised.bias = nn.Parameter(module.bias.data, requires_grad=False)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, quantised.to(device))
    setattr(model, f"is_loaded_in_{quantization}", True)
