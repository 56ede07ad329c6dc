"""From parameter names of the model in memory to tensor names of its checkpoint.

Most families call a tensor the same in both places. Some do not (Qwen2-VL, LLaVA, InternVL: the language model moved):
then transformers' own renaming rules decide, on a model without weights (the meta device).
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.merging.checkpoint import Checkpoint

EMBEDDING_ENDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")


@dataclass(frozen=True)
class NameMap:
    """Where parameters lie: `stored` maps memory names to checkpoint names; `relaid` have another layout on disk."""

    stored: dict[str, str]
    relaid: frozenset[str] = frozenset()


def map_names(checkpoint: Checkpoint, wanted: set[str]) -> NameMap:
    """Checkpoint names of the wanted memory names; names that are found nowhere are left out.

    Example: {"model.language_model.layers.0.mlp.up_proj.weight"} on a Qwen2-VL checkpoint ->
    {... : "model.layers.0.mlp.up_proj.weight"}
    """
    direct = {name: name for name in wanted if name in checkpoint.tensors}
    if len(direct) == len(wanted):
        return NameMap(direct)
    renamed = _renamed(checkpoint)
    if renamed is None:
        return NameMap(direct)
    stored = {memory: renamed.stored[memory] for memory in wanted if memory in renamed.stored}
    return NameMap(stored, renamed.relaid & wanted)


def _renamed(checkpoint: Checkpoint) -> NameMap | None:
    """Memory name -> checkpoint name for every tensor of the checkpoint, by transformers' loading rules."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    model = skeleton(checkpoint.folder)
    if model is None:
        return None
    transforms = get_model_conversion_mapping(model)
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    state = model.state_dict()
    stored: dict[str, str] = {}
    relaid: set[str] = set()
    for name in checkpoint.tensors:
        memory, converter = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        stored[memory] = name
        if converter is not None:
            relaid.add(memory)
    return NameMap(stored, frozenset(relaid))


@functools.lru_cache(maxsize=2)
def skeleton(folder: Path) -> Any:
    """The checkpoint's model class on the meta device (no weights), or None for classes that transformers lacks."""
    import torch
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder)
    except (ValueError, KeyError):  # a model_type that this transformers does not know
        return None
    architecture = (config.architectures or [""])[0]
    model_class = getattr(transformers, architecture, None)
    if model_class is None:
        return None
    with torch.device("meta"):
        return model_class(config)


@dataclass(frozen=True)
class Tie:
    """A head that reads the embedding's weights: both parameters' memory names."""

    head: str
    embedding: str


def find_tie(checkpoint: Checkpoint) -> Tie | None:
    """The tied head and embedding of a checkpoint whose config ties them, None for an untied one.

    Raises UserError when the config ties them and their names cannot be told.
    """
    if not is_tied(checkpoint):
        return None
    embeddings = [name for name in checkpoint.tensors if name.endswith(EMBEDDING_ENDINGS) and "visual" not in name]
    architecture = str((checkpoint.config.get("architectures") or [""])[0])
    if embeddings == ["model.embed_tokens.weight"] and architecture.endswith("ForCausalLM"):
        return Tie("lm_head.weight", embeddings[0])
    model = skeleton(checkpoint.folder)
    keys = getattr(model, "_tied_weights_keys", None) or {}
    if isinstance(keys, dict) and len(keys) == 1:
        head, embedding = next(iter(keys.items()))
        return Tie(head, embedding)
    raise UserError(
        f"{checkpoint.folder}: config.json ties the head to the embedding, and which tensors those are is not known "
        f"for {checkpoint.config.get('architectures')!r}",
        "Train neither of them, or untie the base first (tie_word_embeddings=false).",
    )


def is_tied(checkpoint: Checkpoint) -> bool:
    """Whether the model class shares one tensor between head and embedding when it loads this checkpoint."""
    config = checkpoint.config
    if "tie_word_embeddings" in config:
        return bool(config["tie_word_embeddings"])
    inner = config.get("text_config")
    if isinstance(inner, dict) and "tie_word_embeddings" in inner and "lm_head.weight" not in checkpoint.tensors:
        return bool(inner["tie_word_embeddings"])
    model = skeleton(checkpoint.folder)
    return bool(model is not None and getattr(model.config, "tie_word_embeddings", False))
