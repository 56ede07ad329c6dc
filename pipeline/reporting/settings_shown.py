"""A stage's settings as people want to read them: what is not a default, and the well-known ones always."""

from typing import Any

from pydantic import BaseModel

from pipeline.recipe.fields import StageSettings, is_operational
from pipeline.recipe.references import InputReference, StageReference, references_in

ALWAYS = {
    "train": (
        "max_length", "num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps",
        "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "optim", "seed",
        "packing", "quantization", "chat_template", "over_length",
    ),
    "augment": ("sample_ratio", "singleturn_ratio", "seed"),
    "prepare": ("target_samples", "seed"),
    "evaluate": ("backend", "thinking", "temperature", "max_new_tokens"),
}  # fmt: skip


def settings_shown(settings: StageSettings) -> dict[str, Any]:
    """Flat settings that say what was done, references and operational ones left out; nested keys joined with dots.

    Example: TrainSettings(learning_rate=1e-5, lora={r: 32}) -> {"learning_rate": 1e-05, ..., "lora.r": 32}
    """
    references = {path[0] for path, _, _ in references_in(settings) if len(path) == 1 or path[1].isdigit()}
    out: dict[str, Any] = {}
    for name in type(settings).model_fields:
        if name in {"kind", "rerun", *references} or is_operational(type(settings), name):
            continue
        _add(out, name, getattr(settings, name), _default(settings, name), name in ALWAYS.get(settings.kind, ()))
    if settings.rerun:
        out["rerun"] = settings.rerun
    lora = getattr(settings, "lora", None)
    if isinstance(lora, BaseModel):
        for name in ("r", "lora_alpha", "lora_dropout", "target_modules"):
            out.setdefault(f"lora.{name}", getattr(lora, name))
    return out


def _add(out: dict[str, Any], key: str, value: Any, default: Any, always: bool) -> None:
    if isinstance(value, (StageReference, InputReference)):
        return
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            if not is_operational(type(value), name):
                inner = getattr(default, name, None) if isinstance(default, BaseModel) else _default(value, name)
                _add(out, f"{key}.{name}", getattr(value, name), inner, always=False)
    elif value is not None and (always or value != default):
        out[key] = value


def _default(model: BaseModel, name: str) -> Any:
    field = type(model).model_fields[name]
    return None if field.is_required() else field.get_default(call_default_factory=True)
