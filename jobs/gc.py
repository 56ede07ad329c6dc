"""`gc`: delete runs and what no other run refers to, after showing it. Logic: pipeline.store.gc."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.options import DEFAULT_STORE, StoreOption, configure_logging

if TYPE_CHECKING:
    from pipeline.store.gc import GcPlan


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("gc")(gc)


def gc(
    runs: Annotated[list[str], typer.Option("--run", help="Delete this run; repeatable.")] = [],
    older_than: Annotated[str | None, typer.Option(help="Delete runs created longer ago: 30d, 12h.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Delete the runs you name or that are older than you say, then what no run refers to. Shows it first."""
    configure_logging()
    from pipeline.store.gc import carry_out, plan_gc, seconds_of
    from pipeline.store.probe import open_store

    opened = open_store(store)
    plan = plan_gc(opened, runs, seconds_of(older_than) if older_than else None)
    _show(plan)
    if not plan.folders and not plan.runs:
        typer.echo("nothing to delete")
    elif yes or (sys.stdin.isatty() and typer.confirm("Delete this?")):
        typer.echo(f"freed {carry_out(opened, plan) / 2**20:,.1f} MiB")
    else:
        typer.echo("nothing was deleted: say --yes")


def _show(plan: "GcPlan") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for column in ("delete", "objects", "MiB"):
        table.add_column(column, justify="left" if column == "delete" else "right", overflow="fold")
    for folder in plan.folders:
        table.add_row(folder.prefix, str(len(folder.entries)), f"{folder.bytes / 2**20:,.1f}")
    if plan.folders:
        table.add_row("in all", str(sum(len(f.entries) for f in plan.folders)), f"{plan.bytes / 2**20:,.1f}")
        Console().print(table)
    for run in plan.runs:
        typer.echo(f"delete run {run}")
    for run, reason in plan.kept.items():
        typer.echo(f"kept {run}: {reason}")
