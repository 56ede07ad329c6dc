"""The checkpoint that a training begins with, through merges and earlier trainings, and single files of it."""

from pathlib import PurePosixPath
from typing import Any

from pipeline.errors import UserError
from pipeline.merging.settings import MergeSettings
from pipeline.recipe.references import StageReference, is_hub_id
from pipeline.store.hub import resolve_model
from pipeline.store.objects import Store
from pipeline.store.runs import RunLock, reference_key
from pipeline.training.settings import TrainSettings


def root_of(lock: RunLock, reference: Any) -> Any:
    """The input, URL or Hub id at the bottom of a model reference; None below a stage that makes none.

    Example: {stage: merge1} -> "Qwen/Qwen3-VL-8B-Instruct"
    """
    while isinstance(reference, StageReference):
        settings = lock.recipe.stages[reference.stage]
        if isinstance(settings, MergeSettings):
            reference = settings.base or settings.adapter
        else:
            reference = settings.base if isinstance(settings, TrainSettings) else None
    return reference


def root_file(store: Store, lock: RunLock, root: Any, name: str) -> bytes | None:
    """The content of a small file of what `root_of` gave; None when it is not there or not mirrored."""
    if is_hub_id(root):
        try:
            parts = resolve_model(store, root, lock.hub_models.get(root)).parts
        except UserError:
            return None
        return next((store.read(part.key) for part in parts if part.name == name), None)
    source = lock.inputs.get(reference_key(root))
    files = [file for file in source.files if PurePosixPath(file.name).name == name] if source else []
    return files[0].read_range(0, files[0].bytes) if files else None
