"""Commands that only look: recipes, render, schema, plan, status, logs, why."""

import json
from typing import Annotated, Any

import typer

from jobs.options import (
    DEFAULT_STORE,
    InputOption,
    JsonOption,
    OverlayOption,
    ProfileOption,
    ProfilesOption,
    RecipeArgument,
    RunOption,
    SetOption,
    StoreOption,
    assignments,
    configure_logging,
)


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    for command in (recipes, render, schema, plan, status, logs, why):
        app.command(command.__name__)(command)


def recipes() -> None:
    """List the shipped recipes."""
    from rich.console import Console
    from rich.table import Table

    from pipeline.recipe.load import load_recipe, shipped_names

    table = Table(box=None)
    for column in ("recipe", "stages", "description"):
        table.add_column(column, overflow="fold")
    for name in shipped_names():
        recipe = load_recipe(name)
        table.add_row(name, str(len(recipe.stages)), recipe.description.strip())
    Console().print(table)


def render(
    recipe: RecipeArgument, sets: SetOption = [], overlay: OverlayOption = [], as_json: JsonOption = False
) -> None:
    """Print the resolved recipe: `extends` and defaults written out, each stage's `needs` explicit."""
    import sys

    from ruamel.yaml import YAML

    from pipeline.recipe.load import load_recipe
    from pipeline.recipe.models import rendered

    resolved = rendered(load_recipe(recipe, overlay, sets))
    if as_json:
        typer.echo(json.dumps(resolved, ensure_ascii=False, indent=2))
        return
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 120
    yaml.dump(resolved, sys.stdout)


def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from pipeline.recipe.models import Recipe

    typer.echo(json.dumps(Recipe.model_json_schema(), ensure_ascii=False, indent=2))


def plan(
    recipe: RecipeArgument,
    store: StoreOption = DEFAULT_STORE,
    sets: SetOption = [],
    overlay: OverlayOption = [],
    inputs: InputOption = [],
    profile: ProfileOption = None,
    profiles: ProfilesOption = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print the arithmetic behind every figure.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the DAG: what each stage reads and writes, whether it is done, its steps, tokens, disk and memory."""
    configure_logging()
    from jobs.planning import print_plan
    from pipeline.recipe.load import load_recipe
    from pipeline.reporting.plan import plan_of

    planned = plan_of(load_recipe(recipe, overlay, sets), store, assignments(inputs, "--input"), profile, profiles)
    if as_json:
        typer.echo(json.dumps(planned.plain(), ensure_ascii=False, indent=2))
    else:
        print_plan(planned, explain)


def status(
    run: Annotated[str, typer.Argument(help="A run's id, or latest[@RECIPE].")] = "latest",
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", help="Draw again every two seconds.")] = False,
) -> None:
    """Show a run's stages, from the store alone."""
    import time

    from rich.console import Console

    from jobs.live import table_of
    from pipeline.store.probe import open_store
    from pipeline.store.runs import find_run
    from pipeline.store.status import chain_status

    opened = open_store(store)
    lock = find_run(opened, run)
    console = Console()
    while True:
        statuses = chain_status(opened, lock)
        if as_json:
            document: dict[str, Any] = {
                "run": lock.run_id,
                "recipe": lock.recipe.name,
                "stages": [s.plain() for s in statuses],
            }
            typer.echo(json.dumps(document, ensure_ascii=False, indent=2))
        else:
            console.print(table_of(lock.run_id, statuses))
        if not watch:
            return
        time.sleep(2)


def logs(
    stage: Annotated[str, typer.Argument(help="The stage's name, or RUN:STAGE.")],
    store: StoreOption = DEFAULT_STORE,
    run: RunOption = "latest",
    lines: Annotated[int, typer.Option("--lines", "-n", help="The last lines of each process's log; 0 for all.")] = 100,
) -> None:
    """Print the logs of a stage's processes, oldest first, from the store."""
    from pipeline.reporting.logs import stage_logs
    from pipeline.store.probe import open_store
    from pipeline.store.runs import find_run

    opened = open_store(store)
    named_run, _, stage = stage.rpartition(":")
    run = named_run or run
    for title, text in stage_logs(opened, find_run(opened, run), stage, lines):
        typer.echo(f"== {title}\n{text}")


def why(
    run: Annotated[str, typer.Argument(help="A run's id, or latest[@RECIPE].")] = "latest",
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Say why a run is not further: one sentence of cause and one of remedy for each stage that is not done."""
    from pipeline.reporting.why import reasons
    from pipeline.store.probe import open_store
    from pipeline.store.runs import find_run

    opened = open_store(store)
    for line in reasons(opened, find_run(opened, run)):
        typer.echo(line)
