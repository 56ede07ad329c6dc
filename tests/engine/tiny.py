"""A tiny Qwen3 checkpoint with random seeded weights that vLLM serves on a CPU: bytes as tokens, heads of 64."""

import itertools
import json
from pathlib import Path
from typing import Any

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
PLAIN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_qwen3(folder: Path, seed: int = 7) -> Path:
    """Write the checkpoint into `folder` and give the folder. About 0.4 M parameters, float32."""
    import torch
    from transformers import Qwen3ForCausalLM

    fast = _byte_tokenizer(TEMPLATE)
    torch.manual_seed(seed)
    Qwen3ForCausalLM(_config(fast, tied=True)).to(torch.float32).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def scripted_qwen3(folder: Path, script: list[str], seed: int = 7) -> Path:
    """Write a checkpoint that answers every question with `script` and ends; give the folder.

    Each piece is a token of its own and the layers add nothing to the stream, so that the last token alone decides the
    next: a newline (with which every prompt ends) gives the first piece, a piece the one after it.
    """
    import torch
    from transformers import Qwen3ForCausalLM

    fast = _byte_tokenizer(PLAIN_TEMPLATE)
    fast.add_tokens([piece for piece in script if piece not in fast.get_vocab()])
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(_config(fast, tied=False)).to(torch.float32)
    chain = fast.convert_tokens_to_ids(["Ċ", *script, "<|im_end|>"])
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.normal_()
        model.lm_head.weight.zero_()
        for before, after in itertools.pairwise(chain):
            model.lm_head.weight[after] = model.model.embed_tokens.weight[before]
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def _byte_tokenizer(template: str) -> Any:
    """Bytes as tokens, the think tags and the special tokens of ChatML."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|im_start|>", "<|im_end|>", "<pad>"]
    vocabulary = {token: number for number, token in enumerate([*alphabet, "<think>", "</think>", *specials])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<pad>")
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    fast.add_tokens(["<think>", "</think>"])
    fast.chat_template = template
    return fast


def _config(fast: Any, tied: bool) -> Any:
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=320, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=1024, eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id, bos_token_id=None, tie_word_embeddings=tied,
    )  # fmt: skip


def bare_checkpoint(folder: Path, **changes: object) -> Path:
    """A folder that looks like a checkpoint to whoever reads only its small files."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["Qwen3ForCausalLM"], "hidden_size": 128, "num_attention_heads": 2, "head_dim": 64,
        "max_position_embeddings": 1024, **changes,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder
