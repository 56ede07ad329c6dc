"""`export` copies a stage's outputs out of the store under human names, `parts` says where they lie in it.

Logic: pipeline.store.export.
"""

from pathlib import Path
from typing import Annotated

import typer

from jobs.options import DEFAULT_STORE, StoreOption, configure_logging


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("export")(export)
    app.command("parts")(parts)


def export(
    place: Annotated[str, typer.Argument(metavar="RUN:STAGE", help="A run's id or latest, and its stage.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the files go.")],
    output: Annotated[str | None, typer.Option(help="Only this output, such as heldout or rejects.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files of the same name.")] = False,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Write a stage's outputs as plain files: phase1_korean_256000samples.jsonl, final/, metrics.jsonl."""
    configure_logging()
    from pipeline.errors import UserError
    from pipeline.store.export import export as export_stage
    from pipeline.store.probe import open_store
    from pipeline.store.runs import find_run

    run, _, stage = place.rpartition(":")
    if not run or not stage:
        raise UserError(f"{place!r} is not RUN:STAGE", "Example: hanforge export latest:prepare out/")
    opened = open_store(store)
    for path in export_stage(opened, find_run(opened, run), stage, folder, output, overwrite):
        typer.echo(str(path))


def parts(
    place: Annotated[
        str, typer.Argument(metavar="RUN:STAGE", help="Or RUN:STAGE/OUTPUT, e.g. latest:prepare/rejects.")
    ],
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Print the URLs of a stage's parts, one a line, for DuckDB, datasets and others that read URLs."""
    from pipeline.errors import UserError
    from pipeline.store.export import part_urls

    if not all(place.rpartition(":")):
        raise UserError(f"{place!r} is not RUN:STAGE", "Example: hanforge parts latest:prepare")
    for url in part_urls(place, store):
        typer.echo(url)
