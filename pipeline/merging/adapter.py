"""A LoRA adapter in PEFT's format, read as a list of changes to parameters of the model in memory.

Invariant: every tensor of the adapter ends up in exactly one `Change`, so nothing that was trained can be dropped
silently; a variant whose merge is another formula is refused by name.
Key forms: peft/utils/save_and_load.py of PEFT 0.21 (`get_peft_model_state_dict`).
"""

import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.merging.checkpoint import StoredTensor, read_header, read_json

PREFIX = "base_model.model."
WEIGHTS_NAME = "adapter_model.safetensors"
CONFIG_NAME = "adapter_config.json"

# config key -> why such an adapter is no plain `W + s * B @ A`
VARIANTS = {
    "alora_invocation_tokens": "it acts on some tokens only",
    "arrow_config": "it routes between adapters",
    "kasa_config": "it truncates the base's singular values",
    "layer_replication": "it repeats layers",
    "megatron_config": "its weights are split as Megatron does",
    "monteclora_config": "its weights are random variables",
    "target_parameters": "it adapts stacked parameters (MoE experts), whose layout differs between disk and memory",
    "use_bdlora": "its factors are block-diagonal",
    "use_qalora": "it pools its input",
}
PLAIN_STARTS = (True, False, "true", "false", "gaussian", "eva", "orthogonal", "mica")

_KEY = re.compile(
    r"(?P<module>.+?)\.(?:"
    r"(?P<part>lora_A|lora_B)(?:\.default)?\.(?P<kind>weight|bias)"
    r"|(?P<embedding>lora_embedding_A|lora_embedding_B)(?:\.default)?"
    r"|(?P<magnitude>lora_magnitude_vector)(?:\.default)?(?:\.weight)?"
    r"|(?P<tokens>token_adapter\.trainable_tokens_delta)(?:\.default)?"
    r")"
)


@dataclass(frozen=True)
class LowRank:
    """The factors of one LoRA: `a` [rank, in], `b` [out, rank]; of an embedding, in = vocabulary and out = width."""

    a: StoredTensor
    b: StoredTensor
    scaling: float
    embedding: bool = False
    fan_in_fan_out: bool = False
    magnitude: StoredTensor | None = None  # DoRA's m, [out]


@dataclass(frozen=True)
class Change:
    """What happens to one parameter: first replaced, then adapted, then single rows or a scaled vector put in."""

    replacement: StoredTensor | None = None
    low_rank: LowRank | None = None
    row_indices: tuple[int, ...] = ()
    rows: StoredTensor | None = None
    added: StoredTensor | None = None  # LoRA's own bias, times `added_scaling`, onto the layer's bias
    added_scaling: float = 1.0

    @property
    def sources(self) -> list[StoredTensor]:
        """The adapter's tensors that this change uses."""
        low_rank = [self.low_rank.a, self.low_rank.b, self.low_rank.magnitude] if self.low_rank else []
        return [tensor for tensor in (self.replacement, *low_rank, self.rows, self.added) if tensor is not None]


@dataclass(frozen=True)
class Adapter:
    """An adapter folder: PEFT's config and one change per parameter name as the model in memory calls it."""

    folder: Path
    config: dict[str, Any]
    changes: dict[str, Change] = field(default_factory=dict)

    @property
    def base_name(self) -> str:
        """The base's name or path as the trainer knew it; empty when it was not recorded."""
        return str(self.config.get("base_model_name_or_path") or "")


def open_adapter(folder: Path) -> Adapter:
    """Read an adapter's config and headers. Raises UserError when it is no LoRA, or no merge formula fits it.

    Example: key "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight" belongs to the change of
    "model.layers.0.mlp.up_proj.weight".
    """
    config = read_json(folder / CONFIG_NAME, "an adapter has one")
    _refuse_variants(folder, config)
    file = folder / WEIGHTS_NAME
    if not file.exists():
        raise UserError(f"{folder} has no {WEIGHTS_NAME}", "Save the adapter with PEFT's save_pretrained.")
    modules: dict[str, dict[str, StoredTensor]] = {}
    changes: dict[str, Change] = {}
    for tensor in read_header(file):
        name = tensor.name.removeprefix(PREFIX)
        match = _KEY.fullmatch(name)
        if match is None:
            plain = re.sub(r"\.(base_layer|modules_to_save(\.default)?)(?=\.)", "", name)
            changes[plain] = Change(replacement=tensor)
            continue
        part = match["part"] and f"{match['part']}.{match['kind']}"
        part = part or match["embedding"] or match["magnitude"] or "tokens"
        modules.setdefault(match["module"], {})[part] = tensor
    for module, parts in modules.items():
        _add_module(changes, module, parts, config, folder)
    return Adapter(folder, config, changes)


def _refuse_variants(folder: Path, config: dict[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise UserError(f"{folder}: peft_type is {config.get('peft_type')!r}; merge knows LORA (with rsLoRA and DoRA)")
    for key, reason in VARIANTS.items():
        if config.get(key):
            raise UserError(
                f"{folder}: the adapter sets {key}={config[key]!r}, and {reason}", "It cannot be merged here."
            )
    start = config.get("init_lora_weights", True)
    if (start.lower() if isinstance(start, str) else start) not in PLAIN_STARTS:
        raise UserError(
            f"{folder}: init_lora_weights={start!r} changed the base's weights before training",
            "Convert it first: save_pretrained(..., path_initial_model_for_weight_conversion=...).",
        )


def _add_module(
    changes: dict[str, Change], module: str, parts: dict[str, StoredTensor], config: dict[str, Any], folder: Path
) -> None:
    """Turn one module's parts into changes of its weight and bias."""
    weight, bias = f"{module}.weight", f"{module}.bias"
    if "tokens" in parts:
        rows = parts.pop("tokens")
        change = changes.get(weight, Change())
        changes[weight] = replace(change, rows=rows, row_indices=_token_indices(config, module, rows, folder))
    if not parts:
        return
    embedding = "lora_embedding_A" in parts
    a = parts.pop("lora_embedding_A" if embedding else "lora_A.weight", None)
    b = parts.pop("lora_embedding_B" if embedding else "lora_B.weight", None)
    magnitude = parts.pop("lora_magnitude_vector", None)
    added = parts.pop("lora_B.bias", None)
    if a is None or b is None or parts or len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
        shapes = [list(tensor.shape) for tensor in (a, b) if tensor]
        raise UserError(
            f"{folder}: {module!r} has no matching pair of lora_A and lora_B (shapes {shapes}, also {list(parts)})"
        )
    if config.get("use_dora") and magnitude is None:
        raise UserError(f"{folder}: use_dora is on and {module!r} has no lora_magnitude_vector")
    scaling = scaling_of(config, module, a.shape[0], folder)
    low_rank = LowRank(a, b, scaling, embedding, bool(config.get("fan_in_fan_out")), magnitude)
    changes[weight] = replace(changes.get(weight, Change()), low_rank=low_rank)
    if added is not None:
        changes[bias] = replace(changes.get(bias, Change()), added=added, added_scaling=scaling)


def scaling_of(config: dict[str, Any], module: str, rank: int, folder: Path) -> float:
    """`alpha / r`, or rsLoRA's `alpha / sqrt(r)` (arXiv 2312.03732), with PEFT's patterns by module name.

    Example: {"r": 8, "lora_alpha": 16, "alpha_pattern": {"up_proj": 32}}, "model.layers.0.mlp.up_proj", 8 -> 4.0
    """
    expected = _by_pattern(config.get("rank_pattern") or {}, module, config.get("r", rank))
    if expected != rank:
        raise UserError(
            f"{folder}: {module!r} has rank {rank} and its config says {expected}", "The adapter is broken."
        )
    alpha = _by_pattern(config.get("alpha_pattern") or {}, module, config.get("lora_alpha", rank))
    return float(alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank)


def _by_pattern(patterns: dict[str, Any], module: str, default: Any) -> Any:
    """PEFT's `get_pattern_key`: the first pattern that matches the end of the module's path."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _token_indices(config: dict[str, Any], module: str, rows: StoredTensor, folder: Path) -> tuple[int, ...]:
    """Which rows `trainable_token_indices` stands for: a list for the input embedding, or one list per module name."""
    declared = config.get("trainable_token_indices") or []
    if isinstance(declared, dict):
        declared = next((ids for name, ids in declared.items() if module == name or module.endswith(f".{name}")), [])
    if len(declared) != rows.shape[0]:
        raise UserError(f"{folder}: {module!r} has {rows.shape[0]} trained rows and {len(declared)} token indices")
    return tuple(int(index) for index in declared)
