"""`hanforge report`: one HTML page about a run, or its figures as JSON."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from jobs.options import DEFAULT_STORE, JsonOption, StoreOption


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("report")(report)


def report(
    run: Annotated[str, typer.Argument(help="A run's id, or latest[@RECIPE].")] = "latest",
    store: StoreOption = DEFAULT_STORE,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where the page goes; by default <run id>.html here.")
    ] = None,
    language: Annotated[Literal["ko", "en"], typer.Option(help="The page opens in it; both are inside.")] = "ko",
    as_json: JsonOption = False,
) -> None:
    """Write one HTML page about a run: rows, samples, loss, scores, times, settings and provenance."""
    from pipeline.reporting.gather import gather
    from pipeline.reporting.page import page
    from pipeline.store.probe import open_store
    from pipeline.store.runs import find_run

    opened = open_store(store)
    gathered = gather(opened, find_run(opened, run))
    if as_json:
        typer.echo(json.dumps(gathered.plain(), ensure_ascii=False, indent=2))
        return
    target = out or Path(f"{gathered.run}.html")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(gathered, language), "utf-8")
    typer.echo(str(target.resolve()))
