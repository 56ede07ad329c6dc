"""What can be seen to be wrong with a training before anything ran, from its base's outline. Torch-free."""

import importlib.util
from pathlib import Path
from typing import Any

from pipeline.engine.loadable import chat_template, incomplete
from pipeline.errors import UserError
from pipeline.merging.checkpoint import read_header
from pipeline.recipe.references import StageReference
from pipeline.store.pins import root_of
from pipeline.store.runs import RunLock
from pipeline.store.stage import Stage
from pipeline.training.architecture import Architecture, read_architecture
from pipeline.training.settings import TrainSettings
from pipeline.training.templates import thinking_template


def early(stage: Stage) -> None:
    """Check the checkpoint that the base goes back to: architecture, files, template, room for the system prompt."""
    base = root_of(stage.lock, stage.settings.base)
    if base is None or not stage.is_there(base):
        return
    folder = stage.model_path(base)
    check_complete(folder)
    for file in folder.glob("*.safetensors"):
        if file.is_symlink():  # else a stand-in for weights that lie elsewhere
            read_header(file)
    if importlib.util.find_spec("transformers") is not None:
        check_length(stage.settings, read_architecture(folder))
    if stage.settings.chat_template == "thinking":
        thinking_template(chat_template(folder) or "")
    _check_system_prompts(stage, folder)


def check_complete(folder: Path) -> None:
    """UserError for a checkpoint without weights, tokenizer or chat template."""
    reason = incomplete(folder)
    if reason is not None:
        raise UserError(f"{folder} cannot be trained: {reason[0]}", reason[1])


def check_length(settings: TrainSettings, architecture: Architecture) -> None:
    """UserError when max_length is above the positions that the base knows."""
    positions = architecture.text.get("max_position_embeddings")
    if isinstance(positions, int) and settings.max_length > positions:
        raise UserError(
            f"max_length={settings.max_length} and the base knows {positions} positions",
            f"Set max_length <= {positions}.",
        )


def _check_system_prompts(stage: Stage, folder: Path) -> None:
    """UserError when a system prompt that prepare writes fills max_length by its words alone."""
    prompts = _system_prompts(stage.lock, stage.settings.data_references)
    if not prompts or not (folder / "tokenizer.json").is_file() or importlib.util.find_spec("tokenizers") is None:
        return
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in sorted(prompts):
        check_prompt(text, len(tokenizer.encode(text, add_special_tokens=False).ids), stage.settings.max_length)


def check_prompt(text: str, tokens: int, max_length: int) -> None:
    """UserError when a system prompt fills `max_length` tokens alone: no row would keep an answer."""
    if tokens >= max_length:
        raise UserError(
            f"the system prompt {text[:40]!r}... takes {tokens} tokens, max_length is {max_length}",
            f"Set max_length well above {tokens}, or shorten the system prompt in the prepare stage.",
        )


def _system_prompts(lock: RunLock, references: list[Any]) -> set[str]:
    """The system prompts of every prepare stage that the rows come from."""
    found: set[str] = set()
    for reference in references:
        if not isinstance(reference, StageReference):
            continue
        settings: Any = lock.settings(reference.stage)
        if settings.kind == "prepare" and settings.system_prompt.text is not None:
            found.add(settings.system_prompt.text)
        elif settings.kind != "prepare" and hasattr(settings, "source"):
            found |= _system_prompts(lock, [settings.source])
    return found
