"""A vLLM on this machine for a person or a proof: settings that suit the checkpoint, started and ready."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from pipeline.engine.loadable import backend
from pipeline.engine.server import RunningServer, serving
from pipeline.engine.settings import EngineSettings
from pipeline.scoring.template import thinking_switch

CHAT_LENGTH = 8192


def fitted(settings: EngineSettings, model: Path) -> EngineSettings:
    """The settings with a context that the checkpoint has and a chat needs: at most 8192 tokens where none is set.

    On a CPU a float32 checkpoint stays one, as it was evaluated; vLLM's own auto would make 16-bit numbers of it.
    """
    config = orjson.loads((model / "config.json").read_bytes())
    changes: dict[str, Any] = {}
    if settings.max_model_len is None:
        own = (config.get("text_config") or config).get("max_position_embeddings")
        changes["max_model_len"] = min(CHAT_LENGTH, own or CHAT_LENGTH)
    stored = config.get("dtype") or config.get("torch_dtype")
    if settings.dtype == "auto" and stored == "float32" and backend() == "cpu":
        changes["dtype"] = "float32"
    return settings.model_copy(update=changes)


def begins_inside(model: Path, settings: EngineSettings) -> bool:
    """Whether a thinking answer begins as reasoning without a tag: the template opens it and no parser takes it off."""
    return settings.reasoning_parser is None and thinking_switch(model).opened


@contextmanager
def own_engine(model: Path, settings: EngineSettings, name: str, log: Path) -> Iterator[RunningServer]:
    """Serve a checkpoint folder for the length of the block. Raises as `serving` does."""
    with serving(model, fitted(settings, model), served_name=name, log=log) as server:
        yield server
