"""A LoRA adapter served over its base by vLLM, without a merge. What vLLM refuses is refused here, before the start."""

from pathlib import Path

import orjson

from pipeline.errors import UserError
from pipeline.recipe.references import is_hub_id
from pipeline.store.named import NamedModel, named_model
from pipeline.store.objects import Store
from pipeline.store.stage import Stage

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # vllm/config/lora.py, MaxLoRARanks
MERGE = "Serve the merged model: a merge stage gives it"


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model."""
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def base_of(store: Store, named: NamedModel, adapter: Path) -> Path:
    """The folder of an adapter's base: as its training's run pinned it, else the mirrored Hub model that it names."""
    if named.lock is not None and named.stage is not None:
        trained = Stage(store, named.lock, named.stage)
        return trained.model_path(trained.settings.base)
    base = orjson.loads((adapter / "adapter_config.json").read_bytes()).get("base_model_name_or_path")
    if not is_hub_id(base):
        raise UserError(f"{named.label}: the adapter names its base {base!r}, which nobody can fetch", MERGE)
    return named_model(store, base).path()


def lora_arguments(adapter: Path, served_name: str) -> list[str]:
    """vLLM's arguments beside those of the base; UserError for what its LoRA cannot do (vllm/lora/peft_helper.py)."""
    config = orjson.loads((adapter / "adapter_config.json").read_bytes())
    for key, fine in (("modules_to_save", None), ("use_dora", False), ("bias", "none"), ("lora_bias", False)):
        if (value := config.get(key) or fine) != fine:
            raise UserError(f"vLLM serves no adapter with {key} {value!r}", MERGE)
    rank = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    if rank > RANKS[-1]:
        raise UserError(f"vLLM serves adapters up to rank {RANKS[-1]}, this one has {rank}", MERGE)
    words = ["--enable-lora", "--max-lora-rank", str(next(size for size in RANKS if size >= rank))]
    words += ["--lora-modules", f"{served_name}={adapter}"]
    if (adapter / "tokenizer_config.json").is_file():
        words += ["--tokenizer", str(adapter)]
    if (template := adapter / "chat_template.jinja").is_file():
        words += ["--chat-template", str(template)]
    return words
