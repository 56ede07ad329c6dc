"""Becoming a vLLM server: the model resolved and verified, the engine's settings from a stage or from JSON."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from pipeline.engine.loadable import check_loadable
from pipeline.engine.server import command, environment
from pipeline.engine.settings import EngineSettings
from pipeline.errors import UserError
from pipeline.store.named import named_model
from pipeline.store.objects import Store
from pipeline.store.runs import find_run
from pipeline.store.stage import Stage

DEFAULT_NAME = "hanforge"


@dataclass(frozen=True)
class Launch:
    """A checked command line with the variables that it needs."""

    words: list[str]
    variables: dict[str, str]

    @classmethod
    def of(cls, folder: Path, settings: EngineSettings, name: str, host: str, port: int) -> "Launch":
        """Check that vLLM can load a checkpoint's folder; UserError with the reason when not."""
        check_loadable(folder, settings)
        return cls(command(folder, settings, served_name=name, host=host, port=port), environment(settings))

    def line(self) -> str:
        """The command as one line for a shell."""
        return " ".join(
            [*(f"{name}={shlex.quote(value)}" for name, value in self.variables.items()), shlex.join(self.words)]
        )

    def execute(self) -> NoReturn:
        """Replace this process by the server, which then gets the signals itself."""
        os.execvpe(self.words[0], self.words, {**os.environ, **self.variables})


def folder_of(store: Store, model: str | None, stage: str | None) -> Path:
    """The local folder of MODEL, or of the model that a stage (RUN:STAGE) asks, as its run pinned it."""
    if model is not None:
        return named_model(store, model).path()
    if stage is None:
        raise UserError("neither a MODEL nor --for is given", "Name what is to be served")
    run, _, name = stage.rpartition(":")
    asking = Stage(store, find_run(store, run), name)
    reference = asking.settings.teacher.model if asking.settings.kind == "augment" else asking.settings.model
    if reference is None:
        raise UserError(f"--for {stage!r}: its teacher has no model, only an endpoint", "Name the MODEL")
    return asking.model_path(reference)


def settings_from(store: Store, stage: str | None, text: str | None) -> tuple[EngineSettings, str]:
    """Engine settings and served name: of a stage (RUN:STAGE, its teacher's or its own), from JSON, or the defaults."""
    if stage is not None and text is not None:
        raise UserError("--for and --settings both give engine settings", "Give one of them")
    if stage is not None:
        run, _, name = stage.rpartition(":")
        lock = find_run(store, run)
        settings = lock.settings(name)
        teacher = getattr(settings, "teacher", None)
        if teacher is not None:
            return teacher.engine, teacher.name()
        engine = getattr(settings, "engine", None)
        if not isinstance(engine, EngineSettings):
            raise UserError(
                f"--for {stage!r}: a {settings.kind} stage has no engine", "Name an augment, evaluate or serve stage"
            )
        served = getattr(settings, "served_model_name", None)
        return (engine, DEFAULT_NAME) if served is None else (engine.at(lock.stages[name].execution.precision), served)
    try:
        return EngineSettings.model_validate_json(text or "{}"), DEFAULT_NAME
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        valid = ", ".join(EngineSettings.model_fields)
        raise UserError(f"--settings {text!r}: {place}: {first['msg']}", f"Valid keys: {valid}") from error
