"""A stage's settings as people want to read them: what is not a default, and the well-known ones always."""

from typing import Any

from pydantic import BaseModel

from pipeline.recipe.fields import StageSettings, is_operational
from pipeline.recipe.references import InputReference, StageReference, references_in

ALWAYS = {
    "train": (
        "max_length", "num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps",
        "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "optim", "seed",
        "packing", "quantization", "chat_template", "over_length", "lora.r", "lora.lora_alpha", "lora.lora_dropout",
        "lora.target_modules",
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
    _add(out, settings, None, "", {"kind", "rerun", *references}, ALWAYS.get(settings.kind, ()))
    return {**out, "rerun": settings.rerun} if settings.rerun else out


def _add(
    out: dict[str, Any], model: BaseModel, default: Any, prefix: str, left_out: set[str], always: tuple[str, ...]
) -> None:
    """Add a model's fields that are not those of `default`, or where there is none not their own defaults."""
    for name in type(model).model_fields:
        value, key = getattr(model, name), f"{prefix}{name}"
        if key in left_out or is_operational(type(model), name) or isinstance(value, (StageReference, InputReference)):
            continue
        usual = getattr(default, name, None) if isinstance(default, BaseModel) else _default(model, name)
        if isinstance(value, BaseModel):
            _add(out, value, usual, f"{key}.", left_out, always)
        elif value is not None and (key in always or value != usual):
            out[key] = value


def _default(model: BaseModel, name: str) -> Any:
    field = type(model).model_fields[name]
    return None if field.is_required() else field.get_default(call_default_factory=True)
