"""`doctor`: check this machine and the store. Logic: pipeline.store.doctor."""

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from jobs.options import DEFAULT_STORE, JsonOption, StoreOption, configure_logging

if TYPE_CHECKING:
    from pipeline.store.doctor import Finding


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("doctor")(doctor)


def doctor(store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """Check this machine and the store: what is there, what is wrong, what to do. Exit 2 when something is wrong."""
    configure_logging()
    os.environ.setdefault("HANFORGE_STORE_PATIENCE", "15")  # somebody waits at the terminal
    from pipeline.store.doctor import machine_findings, store_findings

    findings = [*machine_findings(), *store_findings(store)]
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], ensure_ascii=False, indent=2))
    else:
        _show(findings)
    if any(finding.state == "fail" for finding in findings):
        raise typer.Exit(2)


def _show(findings: "list[Finding]") -> None:
    from rich.console import Console
    from rich.table import Table

    marks = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "fail": "[red]FAIL[/]"}
    table = Table(box=None, show_header=False)
    for style in ("bold", "", "", "dim"):
        table.add_column(style=style, overflow="fold")
    for finding in findings:
        table.add_row(finding.name, marks[finding.state], finding.found, finding.remedy)
    Console().print(table)
