"""Tiny seeded checkpoints with locally trained tokenizers, of the families that the recipes name."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEMPLATES = Path(__file__).parent / "templates"
SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "[|user|]",
    "[|assistant|]",
    "[|system|]",
    "[|endofturn|]",
]
WORDS = [
    "안녕하세요. 저는 로봇입니다.",
    "사물을 만나면 멈추고 돌아갑니다.",
    "1단계: 3x를 옮긴다\n2단계: 나눈다\n\n답은 3입니다.",
    "system\nuser\nassistant\n",
    "<think>\n\n</think>\n\n",
    "You are a helpful assistant.",
]


def tokenizer(template: str | None = "qwen3", eos: str = "<|im_end|>") -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer (NFC, newlines merge) with the named template of tests/training/templates."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(WORDS * 4, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=eos, pad_token="<|endoftext|>", bos_token="<|begin_of_text|>"
    )
    made.add_tokens(["<think>", "</think>"], special_tokens=False)
    if template is not None:
        made.chat_template = (TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8")
    return made


TEXT: dict[str, Any] = {
    "vocab_size": 520,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 512,
}


def qwen3(folder: Path, *, tied: bool = False, template: str | None = "qwen3") -> Path:
    """A Qwen3 checkpoint of two layers."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(1)
    model = Qwen3ForCausalLM(Qwen3Config(**TEXT, tie_word_embeddings=tied))
    return _saved(model, folder, template)


def qwen2(folder: Path) -> Path:
    """A Qwen2 checkpoint of two layers; Qwen2.5 has this architecture."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(1)
    return _saved(Qwen2ForCausalLM(Qwen2Config(**TEXT)), folder, "qwen25")


def llama(folder: Path) -> Path:
    """A Llama checkpoint of two layers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    return _saved(LlamaForCausalLM(LlamaConfig(**TEXT)), folder, "qwen3")


def qwen3_vl(folder: Path) -> Path:
    """A Qwen3-VL checkpoint of two language and one vision layer, with the Instruct template."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    vision = {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 64,
        "patch_size": 4,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }
    rope = {"rope_type": "default", "rope_theta": 5000000, "mrope_section": [8, 4, 4], "mrope_interleaved": True}
    torch.manual_seed(1)
    text = {**TEXT, "rope_parameters": rope}
    config = Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)
    return _saved(Qwen3VLForConditionalGeneration(config), folder, "qwen3vl")


def _saved(model: Any, folder: Path, template: str | None) -> Path:
    model.save_pretrained(folder)
    tokenizer(template).save_pretrained(folder)
    return folder
