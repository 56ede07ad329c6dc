"""Where the teacher answers: endpoints of the settings or the environment, else a vLLM of the stage's own."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from pipeline.engine.client import Client
from pipeline.engine.loadable import check_loadable
from pipeline.engine.protocol import Endpoint
from pipeline.engine.server import serving
from pipeline.engine.settings import ClientSettings
from pipeline.engine.special import FILES, special_beside_tags
from pipeline.errors import Trouble, UserError
from pipeline.store.stage import Stage
from pipeline.teacher.answers import teacher_folder
from pipeline.teacher.settings import AugmentSettings, TeacherSettings

ENDPOINT_VARIABLE = "HANFORGE_TEACHER_ENDPOINT"
LOOK_SECONDS = 5.0
HEARTBEAT_SECONDS = 2.0


def identity(stage: Stage) -> str:
    """What the teacher is: its checkpoint's identity, or the name that an endpoint gives it."""
    teacher: TeacherSettings = stage.settings.teacher
    return stage.identity(teacher.model) if teacher.model is not None else f"endpoint:{teacher.name()}"


def given_endpoints(teacher: TeacherSettings, special_tokens: tuple[str, ...] = ()) -> list[Endpoint]:
    """The endpoints that somebody else runs (the variable goes before the setting); none: the stage starts its own."""
    named = os.environ.get(ENDPOINT_VARIABLE, "").replace(",", " ").split()
    urls = list(dict.fromkeys(url.rstrip("/") for url in named)) or teacher.endpoints
    return [Endpoint(url, teacher.name(), teacher.api_key_env, special_tokens) for url in urls]


def early(stage: Stage) -> None:
    """Before a chain starts: look for an endpoint that somebody runs, or at a checkpoint that no stage makes."""
    teacher: TeacherSettings = stage.settings.teacher
    answered = stage.store.list(teacher_folder(teacher.name(), identity(stage)))
    if not answered and (given_endpoints(teacher) or teacher.model is None or stage.is_there(teacher.model)):
        check_teacher(stage, LOOK_SECONDS)


def check_teacher(stage: Stage, patience_seconds: float | None = None) -> None:
    """UserError when nobody can answer: no endpoint there, another model served, a checkpoint that vLLM cannot load."""
    settings: AugmentSettings = stage.settings
    endpoints = given_endpoints(settings.teacher)
    if endpoints:
        patience = patience_seconds or (
            settings.teacher.engine.startup_timeout_seconds if os.environ.get(ENDPOINT_VARIABLE) else LOOK_SECONDS
        )
        try:
            asyncio.run(_look(endpoints, settings.client, patience, lambda: stage.stop.requested))
        except Trouble as error:
            raise UserError(f"teacher endpoint: {error.what}", error.remedy) from error
    elif settings.teacher.model is None:
        raise UserError(
            f"nobody runs the teacher {settings.teacher.name()!r}: no endpoint and no model are set",
            f"Set teacher.endpoint (or {ENDPOINT_VARIABLE}), or teacher.model for a vLLM of the stage's own",
        )
    else:
        check_loadable(stage.model_path(settings.teacher.model), settings.teacher.engine)


def patience_seconds(settings: AugmentSettings) -> float:
    """How long an endpoint may take to answer at the start: a sidecar loads its model, another is up or it is not."""
    own = os.environ.get(ENDPOINT_VARIABLE) is not None or not settings.teacher.endpoints
    return settings.teacher.engine.startup_timeout_seconds if own else settings.client.outage_seconds


@contextmanager
def teacher_endpoints(stage: Stage) -> Iterator[tuple[list[Endpoint], Callable[[], None]]]:
    """The endpoints to ask and a check that raises when a process has died; a vLLM of our own ends with the block."""
    settings: AugmentSettings = stage.settings
    special = special_beside_tags(stage.model_path(settings.teacher.model, FILES)) if settings.teacher.model else ()
    endpoints = given_endpoints(settings.teacher, special)
    if endpoints:
        yield endpoints, lambda: None
        return
    if settings.teacher.model is None:
        raise UserError("no endpoint and no model are set", f"Set teacher.endpoint or {ENDPOINT_VARIABLE}")
    name = settings.teacher.name()
    with ExitStack() as stack:
        with heartbeat(stage):
            model = stage.model_path(settings.teacher.model)
            starting = serving(
                model,
                settings.teacher.engine,
                served_name=name,
                log=stage.scratch() / "vllm.log",
                stop_requested=lambda: stage.stop.requested,
            )
            server = stack.enter_context(starting)
        yield [server.endpoint(model)], server.check


@contextmanager
def heartbeat(stage: Stage) -> Iterator[None]:
    """Keep the progress object moving while nothing else does, so that no other worker takes this one for dead."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT_SECONDS):
            stage.progress.update()

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


async def _look(
    endpoints: list[Endpoint], settings: ClientSettings, seconds: float, stop_requested: Callable[[], bool]
) -> None:
    async with Client(endpoints, settings) as client:
        await client.wait_ready(seconds, stop_requested)
