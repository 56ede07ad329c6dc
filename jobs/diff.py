"""`hanforge diff`: what changed between two sets of rows. Logic: pipeline.reporting.diff."""

from typing import Annotated, Any

import typer

from jobs import options

MOST_SOURCES = 30


def diff(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help="RUN or RUN:STAGE; RUN is an id or latest[@RECIPE].")],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="The same, for the other set.")],
    stage: Annotated[
        str | None, typer.Option(help="In both runs; by default the first stage with rows that differs.")
    ] = None,
    examples: Annotated[int, typer.Option("--examples", "-n", min=0, help="Rows shown of each reason.")] = 3,
    store: options.Store = options.STORE,
    as_json: options.Json = False,
) -> None:
    """Say what changed between two prepared, augmented or validated sets, and why rows are in one of them only."""
    from pipeline.reporting.diff import diff_of
    from pipeline.store.probe import open_store

    document = diff_of(open_store(store), run_a, run_b, stage, examples)
    if as_json:
        options.print_json(document)
    else:
        _print(document)


def _print(document: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console, rows = Console(), document["rows"]
    for side in ("a", "b"):
        one = document[side]
        console.print(
            f"[bold]{side.upper()}[/]  {escape(one['run'])}:{escape(one['stage'])}  {one['rows']:,} rows  "
            f"[dim]{one['kind']} {one['fingerprint'][:12]}[/]"
        )
    if document["a"]["fingerprint"] == document["b"]["fingerprint"]:
        console.print("the same fingerprint: the same settings over the same data, so the same rows")
        return
    settings = Table("setting", "A", "B", box=None)
    for entry in [*document["settings"], *document["reads"]]:
        settings.add_row(entry["setting"], *(escape(_value(entry[side])) for side in ("a", "b")))
    console.print(settings if settings.row_count else "the settings are the same")
    for name in sorted({name for entry in document["reads"] for name in entry["files"]}):
        console.print(f"  [dim]input file that differs:[/] {escape(name)}")
    console.print(f"{rows['same']:,} rows are the same, {rows['changed']:,} changed")
    for place, count in document["changed"]["sources"].items():
        console.print(f"  {count:>10,}  [dim]changed in[/] {escape(place)}")
    for example in document["changed"]["examples"]:
        _print_pair(console, example)
    for key, title in (("left", "only in A"), ("came", "only in B")):
        _print_gone(console, document[key], f"{title}: {rows[key]:,}", "B" if key == "left" else "A")


def _print_gone(console: Any, gone: dict[str, Any], title: str, other: str) -> None:
    """Counts by source and reason, then the examples of each reason."""
    from rich.table import Table
    from rich.text import Text

    console.print(f"[bold]{title}[/]")
    if not gone["reasons"]:
        return
    table = Table("source", *(f"{reason}" for reason in gone["reasons"]), box=None, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for source, reasons in list(gone["sources"].items())[:MOST_SOURCES]:
        table.add_row(Text(_line(source)), *(f"{reasons.get(reason, 0):,}" for reason in gone["reasons"]))
    table.add_row("[bold]all[/]", *(f"[bold]{count:,}[/]" for count in gone["reasons"].values()))
    console.print(f"[dim]why {other} lacks them[/]")
    console.print(table)
    for example in gone["examples"]:
        text = Text.assemble((f"  {example['reason']}  ", "red"), (f"{_line(example['origin'])}  ", "dim"))
        console.print(text.append(_line(example["question"])), soft_wrap=False, overflow="ellipsis", no_wrap=True)


def _print_pair(console: Any, example: dict[str, Any]) -> None:
    from rich.text import Text

    console.print(Text(f"  {_line(example['origin'])}", style="dim"))
    for side in ("a", "b"):
        turn = example[side]
        said = "no such turn" if turn is None else f"{turn['role']}: {_line(turn['text'])}"
        console.print(Text(f"    {side.upper()}  {said}"))


def _line(value: Any) -> str:
    from pipeline.reporting.samples import one_line

    return one_line(str(value or ""))


def _value(value: Any) -> str:
    from pipeline.reporting.figures import brief

    return "none" if value is None else _line(brief(value))
