"""Becoming a vLLM server: the model resolved and verified, the engine's settings from a stage or from JSON."""

import os
import shlex
from dataclasses import dataclass
from typing import NoReturn

from pydantic import ValidationError

from pipeline.engine.loadable import check_loadable
from pipeline.engine.server import command, environment
from pipeline.engine.settings import EngineSettings
from pipeline.errors import UserError
from pipeline.store.named import named_model
from pipeline.store.objects import Store
from pipeline.store.runs import find_run

DEFAULT_NAME = "hanforge"


@dataclass(frozen=True)
class Launch:
    """A checked command line with the variables that it needs."""

    words: list[str]
    variables: dict[str, str]

    @classmethod
    def of(cls, store: Store, model: str, settings: EngineSettings, name: str, host: str, port: int) -> "Launch":
        """Resolve MODEL and check that vLLM can load it; UserError with the reason when not."""
        folder = named_model(store, model).path()
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


def settings_from(store: Store, stage: str | None, text: str | None) -> tuple[EngineSettings, str]:
    """Engine settings and served name: of a stage (RUN:STAGE, its teacher's or its own), from JSON, or the defaults."""
    if stage is not None and text is not None:
        raise UserError("--for and --settings both give engine settings", "Give one of them")
    if stage is not None:
        run, _, name = stage.rpartition(":")
        settings = find_run(store, run).settings(name)
        teacher = getattr(settings, "teacher", None)
        if teacher is not None:
            return teacher.engine, teacher.name()
        engine = getattr(settings, "engine", None)
        if not isinstance(engine, EngineSettings):
            raise UserError(
                f"--for {stage!r}: a {settings.kind} stage has no engine", "Name an augment, evaluate or serve stage"
            )
        return engine, DEFAULT_NAME
    try:
        return EngineSettings.model_validate_json(text or "{}"), DEFAULT_NAME
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        valid = ", ".join(EngineSettings.model_fields)
        raise UserError(f"--settings {text!r}: {place}: {first['msg']}", f"Valid keys: {valid}") from error
