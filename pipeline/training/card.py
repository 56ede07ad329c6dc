"""What lies beside an adapter: its identity card `hanforge.json`, a model card, tokenizer, template and processor.

All of it follows from settings, data and base alone: no times, no machine, no path, so that the same training gives the
same bytes.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.merging.carry import OTHER_FILES, TEMPLATE_FILES, TOKENIZER_FILES, drop_inline_template
from pipeline.merging.checkpoint import RECORD_NAME, read_json, write_json
from pipeline.recipe.fields import resolved
from pipeline.training.settings import TrainSettings
from pipeline.training.templates import TEMPLATE_FILE

PROCESSOR_FILES = tuple(name for name in OTHER_FILES if "processor" in name)


@dataclass(frozen=True)
class BaseIdentity:
    """The base in names that hold anywhere: how the recipe calls it, its digest, and the digest of its weights."""

    name: str
    identity: str
    weights: str


def finish_adapter(
    folder: Path, base: Path, identity: BaseIdentity, template: str, settings: TrainSettings, measured: dict[str, Any]
) -> None:
    """Complete an adapter that PEFT saved in `folder` with everything that chat, merge and serve need beside it."""
    # PEFT writes the local path it loaded from; the adapter must name its base wherever that lies.
    config = read_json(folder / "adapter_config.json", "PEFT writes one")
    write_json(folder / "adapter_config.json", {**config, "base_model_name_or_path": identity.name})
    for name in (*TOKENIZER_FILES, *TEMPLATE_FILES, *PROCESSOR_FILES):
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    (folder / TEMPLATE_FILE).write_text(template, encoding="utf-8")
    if (folder / "tokenizer_config.json").is_file():
        drop_inline_template(folder / "tokenizer_config.json")
    record = {
        "kind": "train",
        "base": {"name": identity.name, "identity": identity.identity, "weights": identity.weights},
        "settings": resolved(settings, with_operational=False),
        "measured": measured,
    }
    write_json(folder / RECORD_NAME, record)
    (folder / "README.md").write_text(model_card(identity, settings, measured), encoding="utf-8")


def model_card(identity: BaseIdentity, settings: TrainSettings, measured: dict[str, Any]) -> str:
    """README.md in the Hub's form: what it is, what it was trained on and how, what was measured."""
    lora = settings.lora
    rows = [
        ("Base", f"`{identity.name}` ({identity.identity})"),
        ("Adapter", f"LoRA r={lora.r}, alpha={lora.lora_alpha}, dropout={lora.lora_dropout}{_variants(settings)}"),
        ("Target modules", f"`{lora.target_modules}`"),
        ("Modules trained in full", ", ".join(lora.modules_to_save) or "none"),
        ("Base held as", settings.quantization if settings.quantization != "none" else measured["precision"]),
        ("Rows trained on", f"{measured['rows']:,} of {measured['planned']:,}"),
        ("Rows left out", ", ".join(f"{why} {count:,}" for why, count in measured["rejected"].items()) or "none"),
        ("Tokens", f"{measured['tokens']:,}, of which {measured['trained_tokens']:,} carry loss"),
        ("Total batch", f"{settings.total_batch} {'packed sequences' if settings.packing else 'rows'}"),
        ("Optimizer steps", f"{measured['steps']:,}"),
        ("Learning rate", f"{settings.learning_rate} ({settings.lr_scheduler_type}, warm-up {settings.warmup_steps})"),
        ("Max length", f"{settings.max_length} tokens; longer rows: {settings.over_length}"),
    ]
    if measured.get("eval_loss") is not None:
        rows.append(("Held-out loss", f"{measured['eval_loss']:.4f} on {measured['eval_rows']:,} rows"))
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return (
        f"---\nbase_model: {identity.name}\nlibrary_name: peft\ntags: [lora, hanforge]\n---\n\n"
        f"# A LoRA adapter for {identity.name}\n\n"
        f"Trained by hanforge with loss on the assistant's turns only. Every setting is in `{RECORD_NAME}`.\n\n"
        f"| | |\n| --- | --- |\n{table}\n\n"
        "## Licence\n\nThe base model's licence holds for this adapter and for what is merged from it, and so do the "
        "terms of the training data and of a teacher whose answers are in it.\n"
    )


def _variants(settings: TrainSettings) -> str:
    names = [name for name in ("use_rslora", "use_dora", "ensure_weight_tying") if getattr(settings.lora, name)]
    return "".join(f", {name}" for name in names)
