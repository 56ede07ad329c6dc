"""Commands that look after a store and a machine: gc, doctor. Logic: pipeline.store.gc, pipeline.store.doctor."""

import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options

if TYPE_CHECKING:
    from pipeline.store.gc import GcPlan


def gc(
    runs: Annotated[list[str], typer.Option("--run", help="Delete this run; repeatable.")] = [],
    older_than: Annotated[str | None, typer.Option(help="Delete runs created longer ago: 30d, 12h.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
    store: options.Store = options.STORE,
) -> None:
    """Delete the runs you name or that are older than you say, then what no run refers to. Shows it first."""
    options.configure_logging()
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
    from rich.table import Column, Table

    table = Table(
        Column("delete", overflow="fold"),
        *(Column(name, justify="right", overflow="fold") for name in ("objects", "MiB")),
        box=None,
    )
    for folder in plan.folders:
        table.add_row(folder.prefix, str(len(folder.entries)), f"{folder.bytes / 2**20:,.1f}")
    if plan.folders:
        table.add_row("in all", str(sum(len(f.entries) for f in plan.folders)), f"{plan.bytes / 2**20:,.1f}")
        Console().print(table)
    for run in plan.runs:
        typer.echo(f"delete run {run}")
    for run, reason in plan.kept.items():
        typer.echo(f"kept {run}: {reason}")


def doctor(store: options.Store = options.STORE, as_json: options.Json = False) -> None:
    """Check this machine and the store: what is there, what is wrong, what to do. Exit 2 when something is wrong."""
    options.configure_logging()
    os.environ.setdefault("HANFORGE_STORE_PATIENCE", "15")  # somebody waits at the terminal
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    from pipeline.store.doctor import machine_findings, store_findings

    findings = [*machine_findings(), *store_findings(store)]
    if as_json:
        options.print_json([asdict(finding) for finding in findings])
    else:
        marks = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "fail": "[red]FAIL[/]"}
        styles = ("bold", "", "", "dim")
        table = Table(*(Column(style=style, overflow="fold") for style in styles), box=None, show_header=False)
        for finding in findings:
            table.add_row(finding.name, marks[finding.state], escape(finding.found), escape(finding.remedy))
        Console().print(table)
    if any(finding.state == "fail" for finding in findings):
        raise typer.Exit(2)
