"""Tiny seeded base checkpoints for the demo: the Qwen3 shape with random weights, a tokenizer of the demo's own words.

Student and teacher differ by their seed alone. The chat template is plain ChatML without a thinking switch, as the
Instruct checkpoints of Qwen2.5 and Qwen3-VL have it; heads are 64 wide because vLLM on a CPU takes nothing smaller.

    python examples/demo/tiny_models.py FOLDER
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import generate
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

SYSTEM_PROMPT = "당신은 물류 로봇을 돕는 도우미입니다."
SEEDS = {"student": 11, "teacher": 12}
MAX_POSITIONS = 512
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TAGS = ("<think>", "</think>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def texts(inputs: Path) -> Iterator[str]:
    """What the tokenizer learns its words from: the system prompt and the worked examples."""
    yield SYSTEM_PROMPT
    for scene in generate.SCENES:
        yield "\n".join((*scene.openings, *scene.endings))
    for line in (inputs / "worked-examples" / "worked_examples.jsonl").read_text("utf-8").splitlines():
        for message in json.loads(line)["messages"]:
            yield message["content"]
    yield from ("system\n", "user\n", "assistant\n")


def build_tokenizer(inputs: Path) -> PreTrainedTokenizerFast:
    """Byte-level BPE with one token a digit, so that any text can be encoded; about 500 entries."""
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Split(Regex(r"\d"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1024, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts(inputs), trainer)
    tokenizer.add_tokens(list(TAGS))  # one token each, yet part of the text, as in Qwen3
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def build_model(tokenizer: Any, seed: int) -> Qwen3ForCausalLM:
    """Two layers, hidden 128, four heads of 64: 0.7 million random float32 weights."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
        intermediate_size=384,
        initializer_range=0.06,  # about 1/sqrt(hidden): three times fewer steps than the usual 0.02
        max_position_embeddings=MAX_POSITIONS,
        rope_theta=10_000.0,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    return model


def write_models(folder: Path, inputs: Path | None = None) -> list[Path]:
    """Write `base-student/` and `base-teacher/` under `folder`; `inputs` as written by generate.py, else made anew."""
    if inputs is None:
        with tempfile.TemporaryDirectory() as scratch:
            generate.write_inputs(Path(scratch))
            return write_models(folder, Path(scratch))
    tokenizer = build_tokenizer(inputs)
    written = []
    for name, seed in SEEDS.items():
        path = folder / f"base-{name}"
        build_model(tokenizer, seed).save_pretrained(path)
        tokenizer.save_pretrained(path)
        written.append(path)
    return written


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/demo/tiny_models.py FOLDER")
    for made in write_models(Path(sys.argv[1])):
        print(made)
