"""Commands that only look: recipes, render, schema, status, logs, why, report."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from jobs import options


def recipes() -> None:
    """List the shipped recipes."""
    from rich.console import Console
    from rich.table import Column, Table

    from pipeline.recipe.load import load_recipe, shipped_names

    table = Table(*(Column(name, overflow="fold") for name in ("recipe", "stages", "description")), box=None)
    for name in shipped_names():
        recipe = load_recipe(name)
        table.add_row(name, str(len(recipe.stages)), recipe.description.strip())
    Console().print(table)


def render(
    recipe: options.Recipe,
    sets: options.Sets = [],
    overlay: options.Overlays = [],
    as_json: options.Json = False,
) -> None:
    """Print the resolved recipe: `extends` and defaults written out, each stage's `needs`, and its `digest`."""
    from pipeline.recipe.load import load_recipe
    from pipeline.recipe.render import document, text

    loaded = load_recipe(recipe, overlay, sets)
    if as_json:
        options.print_json(document(loaded))
    else:
        sys.stdout.write(text(loaded))


def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from pipeline.recipe.models import Recipe

    options.print_json(Recipe.model_json_schema())


def status(
    run: options.Run = "latest",
    store: options.Store = options.STORE,
    as_json: options.Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Draw again every two seconds.")] = False,
    context: options.Context = None,
) -> None:
    """Show a run's stages: progress from the store, and their pods from the cluster that works on it."""
    import time

    from rich.console import Console

    from jobs.live import drawn
    from k8s.status import live
    from pipeline.store.events import events
    from pipeline.store.status import chain_status

    opened, lock = options.opened(store, run)
    console = Console()
    while True:
        statuses = chain_status(opened, lock)
        cluster = live(lock.run_id, events(opened, lock.run_id), context)
        if as_json:
            stages = [status.plain() | {"pods": cluster.pods.get(status.name, "")} for status in statuses]
            options.print_json({"run": lock.run_id, "recipe": lock.recipe.name, "stages": stages})
        else:
            console.print(drawn(lock.run_id, statuses, cluster.pods))
            _say_note(cluster.note)
        if not watch:
            return
        time.sleep(2)


def logs(
    stage: Annotated[str, typer.Argument(help="The stage's name, or RUN:STAGE.")],
    store: options.Store = options.STORE,
    run: options.RunOption = "latest",
    lines: Annotated[int, typer.Option("--lines", "-n", help="The last lines of each process's log; 0 for all.")] = 100,
) -> None:
    """Print the logs of a stage's processes, oldest first, from the store."""
    from pipeline.reporting.logs import stage_logs

    named_run, _, stage = stage.rpartition(":")
    for title, text in stage_logs(*options.opened(store, named_run or run), stage, lines):
        options.say(f"== {title}\n{text}")


def why(
    run: options.Run = "latest",
    store: options.Store = options.STORE,
    release: Annotated[
        str | None, typer.Option(help="Ask the cluster about this release, whose run the store may not know yet.")
    ] = None,
    namespace: options.Namespace = None,
    context: options.Context = None,
) -> None:
    """Say why a run is not further: one sentence of cause and one of remedy for each stage that is not done."""
    from k8s.serving import serving_reasons
    from k8s.status import driver_reason, live, release_reasons
    from k8s.why import explain
    from pipeline.reporting.why import again_command, reasons
    from pipeline.store.events import events

    if release is not None:
        asked = options.cluster(namespace, context)
        for line in serving_reasons(asked, release) or release_reasons(asked, release):
            options.say(line)
        return
    opened, lock = options.opened(store, run)
    happened = events(opened, lock.run_id)
    cluster = live(lock.run_id, happened, context)
    driver = driver_reason(cluster, again_command(lock, happened), lock.stages)
    for line in [*([driver] if driver else []), *reasons(opened, lock, explain, cluster.seen)]:
        options.say(line)
    _say_note(cluster.note)


def _say_note(note: str) -> None:
    if note:
        typer.echo(f"note: {note}", err=True)


def report(
    run: options.Run = "latest",
    store: options.Store = options.STORE,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where the page goes; by default <run id>.html here.")
    ] = None,
    language: Annotated[Literal["ko", "en"], typer.Option(help="The page opens in it; both are inside.")] = "ko",
    as_json: options.Json = False,
) -> None:
    """Write one HTML page about a run: rows, samples, loss, scores, times, settings and provenance."""
    from pipeline.reporting.gather import gather
    from pipeline.reporting.page import page

    gathered = gather(*options.opened(store, run))
    if as_json:
        options.print_json(gathered.plain())
        return
    target = out or Path(f"{gathered.run}.html")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(gathered, language), "utf-8")
    typer.echo(str(target.resolve()))
