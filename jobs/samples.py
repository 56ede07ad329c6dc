"""`hanforge show-sample`: rows that a stage wrote or rejected."""

import json
from typing import Annotated

import typer

from jobs.options import DEFAULT_STORE, JsonOption, StoreOption


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("show-sample")(show_sample)


def show_sample(
    place: Annotated[str, typer.Argument(metavar="RUN:STAGE", help="A run's id or latest[@RECIPE], and a stage.")],
    output: Annotated[str | None, typer.Option(help="Such as rejects; by default the stage's rows.")] = None,
    num_samples: Annotated[int, typer.Option("--num-samples", "-n", min=1, help="How many rows.")] = 20,
    show_full: Annotated[bool, typer.Option("--show-full", help="Whole texts, not their beginnings.")] = False,
    seed: Annotated[int, typer.Option(help="Another number shows other rows.")] = 42,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Show rows that a stage wrote or rejected."""
    from rich.console import Console

    from pipeline.errors import UserError
    from pipeline.reporting.rows import output_rows
    from pipeline.reporting.samples import sample_panel
    from pipeline.store.probe import open_store
    from pipeline.store.runs import find_run

    run, colon, stage = place.rpartition(":")
    if not colon or not run or not stage:
        raise UserError(f"{place!r} is not RUN:STAGE", "Example: hanforge show-sample latest:prepare")
    opened = open_store(store)
    rows = output_rows(opened, find_run(opened, run), stage, output)
    chosen = rows.sample(num_samples, seed)
    if as_json:
        for row in chosen:
            typer.echo(json.dumps(row, ensure_ascii=False))
        return
    console = Console()
    for number, row in enumerate(chosen, 1):
        console.print(sample_panel(row, number, len(chosen), show_full))
    typer.echo(f"{len(chosen)} of {rows.total:,} rows{'' if rows.whole else ' committed so far'}")
