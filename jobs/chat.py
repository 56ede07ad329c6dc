"""`hanforge chat MODEL`: the automatic questions, or a conversation."""

from typing import Annotated

import typer

from jobs.options import DEFAULT_STORE, StoreOption


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("chat")(chat)


def chat(
    model: Annotated[
        str,
        typer.Argument(
            help="RUN:STAGE, promoted[@RECIPE], a folder, or a mirrored Hub id; with --endpoint its served name."
        ),
    ],
    store: StoreOption = DEFAULT_STORE,
    endpoint: Annotated[
        str | None, typer.Option(help="An OpenAI-compatible URL ending in /v1 instead of a vLLM of our own.")
    ] = None,
    thinking: Annotated[bool, typer.Option("--thinking", help="Think before the answer.")] = False,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="Type questions: /think, /no_think, quit, exit.")
    ] = False,
    system_prompt: Annotated[str | None, typer.Option(help="A system turn.")] = None,
    temperature: Annotated[float, typer.Option(min=0, max=2)] = 0.7,
    top_p: Annotated[float, typer.Option(min=0, max=1)] = 0.9,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Longest answer with its reasoning, in tokens: 512, or 2048 where it may think."),
    ] = None,
    api_key_env: Annotated[str | None, typer.Option(help="The variable that holds the endpoint's key.")] = None,
    settings: Annotated[str | None, typer.Option(help="Engine settings as JSON.", metavar="JSON")] = None,
) -> None:
    """Ask a model the automatic questions, or talk to it; its reasoning is set apart from its answers."""
    from pipeline.engine.session import Session, open_session

    longest = max_tokens or (2048 if thinking or interactive else 512)  # 512 may end before the answer begins
    session = Session(thinking, interactive, system_prompt, temperature, top_p, longest)
    open_session(store, model, endpoint, api_key_env, settings, session)
