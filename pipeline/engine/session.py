"""`hanforge chat` from its options to its end: the endpoint or an engine of our own, then questions."""

import asyncio
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.engine.chat import Conversation, ask_automatically, talk
from pipeline.engine.client import Client
from pipeline.engine.launch import settings_from
from pipeline.engine.loadable import check_loadable
from pipeline.engine.local import begins_inside, own_engine
from pipeline.engine.protocol import Endpoint
from pipeline.engine.settings import ClientSettings
from pipeline.errors import Trouble, UserError
from pipeline.scoring.template import thinking_switch
from pipeline.store.named import named_model
from pipeline.store.probe import open_store

LOOK_SECONDS = 5.0
SERVED_NAME = "chat"


@dataclass(frozen=True)
class Session:
    """What the person asked for; `max_tokens` counts the reasoning too."""

    thinking: bool
    interactive: bool
    system_prompt: str | None
    temperature: float
    top_p: float
    max_tokens: int


def open_session(
    store: str, model: str, endpoint: str | None, api_key_env: str | None, engine: str | None, session: Session
) -> None:
    """Talk to `model` at an endpoint, or start vLLM on it first. UserError when either cannot answer."""
    if endpoint is not None:
        if engine is not None:
            raise UserError("--settings has no effect with --endpoint", "Leave it out")
        target = Endpoint(endpoint.rstrip("/"), model, api_key_env)
        asyncio.run(_converse(target, session, opens_thinking=False, check=lambda: None))
        return
    opened = open_store(store)
    settings, _ = settings_from(opened, None, engine)
    folder = named_model(opened, model).path()
    check_loadable(folder, settings)
    if session.thinking and not thinking_switch(folder).switches:
        print("warning: the chat template has no enable_thinking; --thinking changes nothing", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="hanforge-chat-") as scratch:
        print(f"vLLM을 시작합니다: {folder} (1~3분 걸릴 수 있습니다)", file=sys.stderr)
        with own_engine(folder, settings, SERVED_NAME, Path(scratch) / "vllm.log") as server:
            opens = begins_inside(folder, settings)
            asyncio.run(_converse(server.endpoint(folder), session, opens, server.check))


async def _converse(endpoint: Endpoint, session: Session, opens_thinking: bool, check: Callable[[], None]) -> None:
    async with Client(endpoint, ClientSettings(), check) as client:
        try:
            await client.wait_ready(LOOK_SECONDS)
        except Trouble as error:
            raise UserError(error.what, error.remedy) from error
        conversation = Conversation(
            client,
            session.thinking,
            session.system_prompt,
            session.temperature,
            session.top_p,
            session.max_tokens,
            opens_thinking,
        )
        if session.interactive:
            await talk(conversation, sys.stdout)
        else:
            await ask_automatically(conversation, sys.stdout)
