"""`hanforge plan`: what a recipe will do. Logic: pipeline.reporting.plan."""

from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options

if TYPE_CHECKING:
    from pipeline.reporting.plan import Plan, StagePlan


def plan(
    recipe: options.Recipe,
    store: options.Store = options.STORE,
    sets: options.Sets = [],
    overlay: options.Overlays = [],
    inputs: options.Inputs = [],
    profile: options.Profile = None,
    profiles: options.Profiles = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print the arithmetic behind every figure.")] = False,
    as_json: options.Json = False,
) -> None:
    """Print the DAG: what each stage reads and writes, whether it is done, its steps, tokens, disk and memory.

    Ends with 2 when a stage that is not done does not fit its profile's cards.
    """
    options.configure_logging()
    from pipeline.recipe.load import load_recipe
    from pipeline.reporting.plan import check_fits, plan_of
    from pipeline.store.probe import looking

    given = options.assignments(inputs, "--input")
    with looking(options.ANSWER_SECONDS):
        planned = plan_of(load_recipe(recipe, overlay, sets), store, given, profile, profiles)
    if as_json:
        options.print_json(planned.plain())
    else:
        _print(planned, explain)
    check_fits(planned.stages)


def _print(plan: "Plan", explain: bool) -> None:
    """One block a stage; with `explain` every figure's arithmetic below it."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    console.print(f"[bold]{plan.recipe}[/]: {escape(plan.description)}")
    for number, stage in enumerate(plan.stages, 1):
        state = "[green]done[/]" if stage.done else f"[yellow]to do[/]: {escape(stage.why)}"
        console.print(f"\n[bold]{number:2d} {stage.name}[/]  {stage.kind} on {stage.profile}  {state}")
        console.print(f"   reads {escape(', '.join(stage.reads)) or 'nothing'}; writes {', '.join(stage.writes)}")
        figures = _figures(stage)
        if figures:
            console.print(f"   {', '.join(figures)}")
        for line in stage.lines if explain else []:
            console.print(f"     [dim]{escape(line)}[/]")
        for note in stage.notes:
            console.print(f"   [yellow]{escape(note)}[/]")
    disk = sum(stage.disk_gib or 0 for stage in plan.stages if not stage.done)
    if disk:
        console.print(f"\ndisk for what is to do: about {disk:,.1f} GiB in the store")
    for message in plan.absent.values():
        console.print(f"[red]missing[/]: {escape(message)}")


def _figures(stage: "StagePlan") -> list[str]:
    out = []
    if stage.rows is not None:
        out.append(f"{stage.rows:,} rows" if stage.done or stage.kind != "train" else f"trains on {stage.rows:,} rows")
    if stage.steps is not None:
        out.append(f"{stage.steps:,} optimizer steps")
    if stage.tokens_at_most is not None:
        out.append(f"at most {stage.tokens_at_most / 1e6:,.0f} M tokens")
    if stage.memory_gib is not None:
        verdict = {
            None: "",
            True: f" of {stage.card_gib} GiB: fits",
            False: f" of {stage.card_gib} GiB: [red]DOES NOT FIT[/]",
        }
        out.append(f"{stage.memory_gib:.1f} GiB a card{verdict[stage.fits]}")
    if stage.disk_gib is not None:
        out.append(f"{stage.disk_gib:.1f} GiB of disk")
    return out
