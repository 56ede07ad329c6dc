"""`hanforge engine MODEL`: resolve and verify a model, then become its vLLM server."""

from typing import Annotated

import typer

from jobs.options import DEFAULT_STORE, ModelArgument, StoreOption


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("engine")(engine)


def engine(
    model: ModelArgument,
    store: StoreOption = DEFAULT_STORE,
    host: Annotated[str, typer.Option(envvar="HANFORGE_ENGINE_HOST", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="HANFORGE_ENGINE_PORT", help="Where to listen.")] = 8000,
    served_model_name: Annotated[str | None, typer.Option(help="The name that requests carry.")] = None,
    for_stage: Annotated[
        str | None, typer.Option("--for", metavar="RUN:STAGE", help="Take engine settings and name from a stage.")
    ] = None,
    settings: Annotated[
        str | None, typer.Option(help='Engine settings as JSON, e.g. {"max_model_len": 4096}.', metavar="JSON")
    ] = None,
    show: Annotated[bool, typer.Option("--print", help="Print the command and end.")] = False,
) -> None:
    """Serve a model with vLLM in this process; refuses what vLLM cannot load, with the reason, before it starts."""
    from pipeline.engine.launch import Launch, settings_from
    from pipeline.store.probe import open_store

    opened = open_store(store)
    chosen, name = settings_from(opened, for_stage, settings)
    launch = Launch.of(opened, model, chosen, served_model_name or name, host, port)
    if show:
        typer.echo(launch.line())
    else:
        launch.execute()
