"""Which model class a checkpoint wants, read from its own config.json before any weight is loaded.

Text models load as causal models; vision-language models are trained on text with the vision tower frozen and without
adapters. Nothing is ever loaded from a checkpoint's own code.
"""

import ast
import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.merging.checkpoint import read_json
from pipeline.training.settings import ALL_LINEAR

LANGUAGE_MODEL = "language_model"
TABLES = ("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")


@dataclass(frozen=True)
class Architecture:
    """`config` is the parsed config.json, `vision` whether the checkpoint also has a vision tower."""

    name: str
    model_type: str
    vision: bool
    config: dict[str, Any]

    @property
    def text(self) -> dict[str, Any]:
        """The language model's own configuration."""
        nested = self.config.get("text_config")
        return nested if isinstance(nested, dict) else self.config

    @property
    def tied(self) -> bool:
        """Whether lm_head is embed_tokens."""
        return bool(self.config.get("tie_word_embeddings", self.text.get("tie_word_embeddings", False)))


def read_architecture(folder: Path) -> Architecture:
    """The architecture of the checkpoint in `folder`; UserError when it is missing, unknown or remote code."""
    path = folder / "config.json"
    if not path.is_file():
        found = sorted(entry.name for entry in folder.iterdir())[:8] if folder.is_dir() else []
        raise UserError(
            f"{folder} holds no config.json (found: {found})",
            "base must name a Hugging Face checkpoint, not an adapter.",
        )
    return architecture_of(read_json(path, "a checkpoint has a config.json"), str(folder))


def architecture_of(config: dict[str, Any], place: str) -> Architecture:
    """The architecture that a parsed config.json names. UserError where this code cannot train it.

    Example: {"architectures": ["Qwen3VLForConditionalGeneration"], "model_type": "qwen3_vl", ...} -> vision=True
    """
    known = _known_architectures()
    names = config.get("architectures") or []
    name, model_type = (names[0] if names else ""), str(config.get("model_type", ""))
    if name in _names(known["MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"].get(model_type)):
        return Architecture(name, model_type, True, config)
    if name in _names(known["MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"].get(model_type)):
        return Architecture(name, model_type, False, config)
    if "auto_map" in config:
        raise UserError(
            f"{place}: {name or model_type!r} needs code of its own ({sorted(config['auto_map'])}), which is never run",
            "Use a checkpoint of this model that transformers knows natively.",
        )
    raise UserError(
        f"{place}: architecture {name!r} (model_type {model_type!r}) is not one that generates text here",
        "base must be a causal or an image-text-to-text checkpoint that the installed transformers knows.",
    )


@cache
def _known_architectures() -> dict[str, dict[str, Any]]:
    """transformers' tables from model_type to class names, read as source text: importing them takes torch."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        raise UserError("transformers is not installed here", "Install the extra `train`.")
    source = Path(spec.origin).parent / "models" / "auto" / "modeling_auto.py"
    found: dict[str, dict[str, Any]] = {}
    for node in ast.parse(source.read_text("utf-8")).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        name, value = getattr(target, "id", ""), getattr(node, "value", None)
        if name in TABLES and isinstance(value, ast.Call):
            found[name] = dict(ast.literal_eval(value.args[0]))
    return found


def _names(entry: Any) -> tuple[str, ...]:
    if entry is None:
        return ()
    return (entry,) if isinstance(entry, str) else tuple(entry)


def target_pattern(linear_names: list[str], target_modules: str | list[str], *, vision: bool) -> str:
    """PEFT's target as one regular expression over module names, kept out of the vision tower and of lm_head.

    `linear_names` are the full names of the model's linear layers. UserError for a target that matches none: a setting
    that would have no effect.
    Example: ["model.language_model.layers.0.mlp.up_proj"], "all-linear" -> r".*language_model\\..*\\.(up_proj)"
    """
    inside = [name for name in linear_names if not vision or f"{LANGUAGE_MODEL}." in name]
    leaves = {name.rsplit(".", 1)[-1] for name in inside} - {"lm_head", "embed_tokens"}
    wanted = sorted(leaves) if target_modules == ALL_LINEAR else list(target_modules)
    unknown = [name for name in wanted if name not in leaves]
    if unknown or not wanted:
        raise UserError(
            f"lora.target_modules names {unknown}, which the language model does not have",
            f"Its linear layers: {', '.join(sorted(leaves))}.",
        )
    alternatives = "|".join(re.escape(name) for name in wanted)
    inner = rf"{LANGUAGE_MODEL}\..*\." if vision else r"\."
    return rf".*{inner}({alternatives})"
