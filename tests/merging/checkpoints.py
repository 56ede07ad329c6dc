"""Tiny seeded checkpoints and adapters: a base on disk, and a PEFT adapter whose weights are random, on disk too."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)


def qwen3(folder: Path, dtype: torch.dtype = torch.bfloat16, seed: int = 0, **overrides: Any) -> Path:
    """A two-layer Qwen3 with biases, saved."""
    torch.manual_seed(seed)
    shape = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "attention_bias": True, "tie_word_embeddings": False}
    config = Qwen3Config(**{**shape, **heads, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, **overrides})
    return save(Qwen3ForCausalLM(config).to(dtype), folder)


def gpt2(folder: Path, seed: int = 0) -> Path:
    """A two-layer GPT-2, whose linear layers are stored transposed (`Conv1D`) and whose head is tied."""
    torch.manual_seed(seed)
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=40, n_positions=64, bos_token_id=0, eos_token_id=1)
    return save(GPT2LMHeadModel(config).to(torch.bfloat16), folder)


def save(model: PreTrainedModel, folder: Path, max_shard_size: str = "5GB") -> Path:
    """Save with biases and norms that are not trivially zero and one."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    return folder


def adapt(
    base: Path, folder: Path, seed: int = 1, dtype: torch.dtype = torch.float32, model_class: Any = None, **config: Any
) -> Path:
    """Save an adapter of `base` with every trained weight random, as if it had been trained."""
    model = (model_class or AutoModelForCausalLM).from_pretrained(base)
    peft_model = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM", **config}))
    torch.manual_seed(seed)
    for parameter in peft_model.parameters():
        if parameter.requires_grad:
            parameter.data = (parameter.data.float() + 0.05 * torch.randn(parameter.shape)).to(dtype)
    peft_model.save_pretrained(folder)
    return folder


def peft_model(base: Path, adapter: Path, model_class: Any = None, dtype: torch.dtype | str = "auto") -> PeftModel:
    """The base with its adapter, as PEFT loads it, for inference."""
    model = (model_class or AutoModelForCausalLM).from_pretrained(base, dtype=dtype)
    return PeftModel.from_pretrained(model, adapter).eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    """Logits in float32 of a fixed batch [2, 8]."""
    tokens = torch.arange(16).reshape(2, 8) % 37
    with torch.no_grad():
        return model.float()(input_ids=tokens).logits
