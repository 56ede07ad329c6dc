"""Becoming a vLLM server: the model resolved and verified, the engine's settings from a stage or from JSON."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from pipeline.engine import class_infos
from pipeline.engine.adapter import base_of, is_adapter, lora_arguments
from pipeline.engine.leaving import Leaving
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
    leaving: Path | None = None

    @classmethod
    def of(
        cls, model: "Served", settings: EngineSettings, name: str, host: str, port: int, leaving: Path | None = None
    ) -> "Launch":
        """Check that vLLM can load a checkpoint's folder; UserError with the reason when not.

        Once the file `leaving` exists, clients that keep their connections are sent away one by one.
        """
        check_loadable(model.folder, settings)
        lora = lora_arguments(model.adapter, name) if model.adapter is not None else []
        served = f"{name}-base" if lora else name
        words = command(model.folder, settings, served_name=served, host=host, port=port)
        if leaving is None:
            return cls([*words, *lora], environment(settings))
        words += ["--middleware", f"{Leaving.__module__}.{Leaving.__qualname__}"]
        told = {"HANFORGE_LEAVING": str(leaving), "HANFORGE_SERVES": model.label}
        return cls([*words, *lora], environment(settings) | told, leaving)

    def line(self) -> str:
        """The command as one line for a shell."""
        return " ".join(
            [*(f"{name}={shlex.quote(value)}" for name, value in self.variables.items()), shlex.join(self.words)]
        )

    def execute(self) -> NoReturn:
        """Replace this process by the server, which then gets the signals itself."""
        class_infos.lay_out()
        if self.leaving is not None:
            self.leaving.unlink(missing_ok=True)  # of the container that ran before in this pod
        os.execvpe(self.words[0], self.words, {**os.environ, **self.variables})


@dataclass(frozen=True)
class Served:
    """Local folders: a checkpoint, and the adapter over it where that is what is served; `label` says whose."""

    folder: Path
    adapter: Path | None = None
    label: str = ""


def served(store: Store, model: str | None, stage: str | None, promotion: int | None = None) -> Served:
    """The local files of MODEL, or of the model that a stage (RUN:STAGE) asks, as its run pinned it.

    `promotion` means that number and not the highest, for `promoted@RECIPE`.
    """
    if model is not None:
        named = named_model(store, model, promotion)
        folder = named.path()
        if is_adapter(folder):
            return Served(base_of(store, named, folder), folder, named.label)
        return Served(folder, label=named.label)
    if stage is None:
        raise UserError("neither a MODEL nor --for is given", "Name what is to be served")
    run, _, name = stage.rpartition(":")
    asking = Stage(store, find_run(store, run), name)
    reference = asking.settings.teacher.model if asking.settings.kind == "augment" else asking.settings.model
    if reference is None:
        raise UserError(f"--for {stage!r}: its teacher has no model, only an endpoint", "Name the MODEL")
    return Served(asking.model_path(reference), label=stage)


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
        asked = getattr(settings, "served_model_name", None)
        return (engine, DEFAULT_NAME) if asked is None else (engine.at(lock.stages[name].execution.precision), asked)
    try:
        return EngineSettings.model_validate_json(text or "{}"), DEFAULT_NAME
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        valid = ", ".join(EngineSettings.model_fields)
        raise UserError(f"--settings {text!r}: {place}: {first['msg']}", f"Valid keys: {valid}") from error
