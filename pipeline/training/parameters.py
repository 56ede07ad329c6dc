"""Parameter counts from a checkpoint's config.json alone, for decoder-only language models and Qwen's vision towers.

Torch-free: a plan counts a model before a byte of it is fetched. Formulas follow transformers' modeling files.
"""

from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError
from pipeline.training.settings import ALL_LINEAR, LoraSettings

QUERY_KEY_NORMS = ("qwen3", "exaone4", "gemma3")
QUERY_KEY_VALUE_BIAS = ("qwen2",)


@dataclass(frozen=True)
class LinearShape:
    """A linear layer that every decoder layer has, [outputs, inputs]."""

    name: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Parameters:
    """Counts by part; `linear` are one decoder layer's linear layers, experts apart in `experts`."""

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    tied: bool
    linear: tuple[LinearShape, ...]
    experts: int
    small: int
    vision: int

    @property
    def linear_total(self) -> int:
        """Weights of the decoder's linear layers, without experts."""
        return self.layers * sum(shape.inputs * shape.outputs for shape in self.linear)

    @property
    def embeddings(self) -> int:
        """Weights of embed_tokens and of lm_head, which count once when they are tied."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def total(self) -> int:
        """Every parameter of the checkpoint."""
        return self.linear_total + self.experts + self.embeddings + self.small + self.vision


def parameter_counts(config: dict[str, Any]) -> Parameters:
    """Count a config.json. UserError when a field that the formula needs is missing.

    Example: Qwen2.5-14B's config -> total 14,770,033,664
    """
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    assert text is not None
    family = str(text.get("model_type", config.get("model_type", "")))
    hidden, layers = _number(text, "hidden_size"), _number(text, "num_hidden_layers")
    heads = _number(text, "num_attention_heads")
    keys = int(text.get("num_key_value_heads") or heads)
    width = int(text.get("head_dim") or hidden // heads)
    intermediate = _number(text, "intermediate_size")
    experts = int(text.get("num_experts") or 0)
    linear = [
        LinearShape("q_proj", hidden, heads * width),
        LinearShape("k_proj", hidden, keys * width),
        LinearShape("v_proj", hidden, keys * width),
        LinearShape("o_proj", heads * width, hidden),
    ]
    expert_total = 0
    if experts:
        expert_total = layers * experts * (3 * hidden * _number(text, "moe_intermediate_size") + hidden)
        intermediate = _number(text, "moe_intermediate_size") * int(text.get("num_experts_per_tok") or 1)
    else:
        linear += [LinearShape(name, hidden, intermediate) for name in ("gate_proj", "up_proj")]
        linear.append(LinearShape("down_proj", intermediate, hidden))
    small = 2 * hidden
    small += 2 * width if family.startswith(QUERY_KEY_NORMS) else 0
    small += (heads + 2 * keys) * width if family.startswith(QUERY_KEY_VALUE_BIAS) else 0
    return Parameters(
        layers=layers,
        hidden=hidden,
        intermediate=intermediate,
        vocabulary=_number(text, "vocab_size"),
        tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
        linear=tuple(linear),
        experts=expert_total,
        small=layers * small + hidden,
        vision=_vision(config["vision_config"]) if isinstance(config.get("vision_config"), dict) else 0,
    )


def _vision(vision: dict[str, Any]) -> int:
    """Qwen2-VL's and Qwen3-VL's towers exactly (modeling_qwen*_vl.py); others as a plain ViT of that size."""
    hidden = int(vision.get("embed_dim") or vision.get("hidden_size") or 0)
    depth = int(vision.get("depth") or vision.get("num_hidden_layers") or 0)
    inner = int(vision.get("intermediate_size") or 4 * hidden)
    block = 4 * hidden + 4 * hidden * hidden + 4 * hidden + 2 * hidden * inner + inner + hidden
    patch = int(vision.get("patch_size") or 14) ** 2 * int(vision.get("temporal_patch_size") or 1)
    embedding = int(vision.get("in_channels") or 3) * patch * hidden + hidden
    total = depth * block + embedding
    if "embed_dim" in vision:  # Qwen2-VL: its hidden_size is the language model's, its patches have no bias
        merged, out = hidden * int(vision.get("spatial_merge_size") or 2) ** 2, int(vision["hidden_size"])
        return total - hidden + 2 * hidden + merged * merged + merged + merged * out + out
    if "deepstack_visual_indexes" in vision:
        merged = hidden * int(vision["spatial_merge_size"]) ** 2
        out = int(vision["out_hidden_size"])
        fully = merged * merged + merged + merged * out + out
        total += int(vision["num_position_embeddings"]) * hidden
        total += fully + 2 * hidden + len(vision["deepstack_visual_indexes"]) * (fully + 2 * merged)
    return total


def lora_parameters(counts: Parameters, lora: LoraSettings) -> int:
    """Trainable parameters: r * (inputs + outputs) of each adapted layer, DoRA's magnitudes, modules trained in full.

    Example: Qwen3-VL-8B, r=16, all-linear -> 43,646,976
    """
    wanted = None if lora.target_modules == ALL_LINEAR else set(lora.target_modules)
    shapes = [shape for shape in counts.linear if wanted is None or shape.name in wanted]
    each = sum(lora.r * (shape.inputs + shape.outputs) + (shape.outputs if lora.use_dora else 0) for shape in shapes)
    full = {"embed_tokens", "lm_head"} & set(lora.modules_to_save)
    copies = 1 if counts.tied and full else len(full)
    return counts.layers * each + copies * counts.vocabulary * counts.hidden


def _number(config: dict[str, Any], name: str) -> int:
    if not isinstance(config.get(name), int):
        raise UserError(
            f"config.json has no whole number {name!r} (found {config.get(name)!r})", "Is it a language model's?"
        )
    return int(config[name])
