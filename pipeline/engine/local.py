"""A vLLM on this machine for a person or a proof: settings that suit the checkpoint, started and ready."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson

from pipeline.engine.loadable import chat_template
from pipeline.engine.server import RunningServer, serving
from pipeline.engine.settings import EngineSettings
from pipeline.engine.template import opens_thinking

CHAT_LENGTH = 8192


def fitted(settings: EngineSettings, model: Path) -> EngineSettings:
    """The settings with a context that the checkpoint has and a chat needs: at most 8192 tokens where none is set."""
    if settings.max_model_len is not None:
        return settings
    config = orjson.loads((model / "config.json").read_bytes())
    own = (config.get("text_config") or config).get("max_position_embeddings")
    return settings.model_copy(update={"max_model_len": min(CHAT_LENGTH, own or CHAT_LENGTH)})


def begins_inside(model: Path, settings: EngineSettings) -> bool:
    """Whether a thinking answer begins as reasoning without a tag: the template opens it and no parser takes it off."""
    template = chat_template(model)
    return settings.reasoning_parser is None and template is not None and opens_thinking(template, thinking=True)


@contextmanager
def own_engine(model: Path, settings: EngineSettings, name: str, log: Path) -> Iterator[RunningServer]:
    """Serve a checkpoint folder for the length of the block. Raises as `serving` does."""
    with serving(model, fitted(settings, model), served_name=name, log=log) as server:
        yield server
