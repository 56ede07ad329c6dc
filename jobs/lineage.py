"""`hanforge lineage`: what made a model."""

import json
from typing import Annotated

import typer

from jobs.options import DEFAULT_STORE, JsonOption, ModelArgument, StoreOption


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("lineage")(lineage)


def lineage(
    model: ModelArgument,
    store: StoreOption = DEFAULT_STORE,
    rows: Annotated[int, typer.Option(help="Show so many example rows with their raw lines.")] = 0,
    seed: Annotated[int, typer.Option(help="Another number shows other rows.")] = 42,
    as_json: JsonOption = False,
) -> None:
    """Say what made a model: stages, settings, rows of which files, teacher, base and code, back to the raw lines."""
    from rich.console import Console

    from pipeline.reporting.lineage import lineage_of
    from pipeline.reporting.lineage_tree import lineage_tree
    from pipeline.store.named import named_model
    from pipeline.store.probe import open_store

    opened = open_store(store)
    found = lineage_of(opened, named_model(opened, model), rows, seed)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        Console().print(lineage_tree(found))
