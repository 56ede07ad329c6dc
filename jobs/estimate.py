"""`hanforge estimate`: what an augment stage will take, from a few samples that are part of its result."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options

if TYPE_CHECKING:
    from pipeline.recipe.models import Recipe
    from pipeline.teacher.estimate import Estimate
    from pipeline.teacher.forecast import Range


def estimate(
    recipe: options.Recipe,
    stage: Annotated[str | None, typer.Argument(help="An augment stage; by default the recipe's only one.")] = None,
    samples: Annotated[int, typer.Option(min=8, help="Samples that are asked now; part of the result.")] = 64,
    store: options.Store = options.STORE,
    sets: options.Sets = [],
    overlay: options.Overlays = [],
    inputs: options.Inputs = [],
    profile: options.Profile = None,
    profiles: options.Profiles = None,
    as_json: options.Json = False,
) -> None:
    """Ask a few samples of an augment stage, then say how long all will take, what it costs and what is rejected."""
    options.configure_logging()
    from jobs.early import check_early
    from jobs.run import pinned
    from pipeline.local.chain import Options
    from pipeline.recipe.load import load_recipe
    from pipeline.recipe.profiles import profiles as known_profiles
    from pipeline.store.probe import open_store
    from pipeline.store.runs import create_run
    from pipeline.store.stage import Stage
    from pipeline.store.stop import StopFlag
    from pipeline.teacher.estimate import estimate as made

    loaded = load_recipe(recipe, overlay, sets)
    name = _stage_of(loaded, stage)
    opened = open_store(store)
    candidate = pinned(opened, loaded, inputs, profile, profiles, narrowed=True, fetch_for=[name])
    check_early(opened, candidate, Options(only=(name,)))
    lock = create_run(opened, candidate)
    stop = StopFlag()
    stop.listen()
    where = profile or lock.settings(name).profile
    found = made(Stage(opened, lock, name, stop=stop), samples, known_profiles(profiles)[where], _say)
    if as_json:
        options.print_json({"run": lock.run_id, "stage": name, "profile": where, **found.plain()})
    else:
        typer.echo("\n  ".join([f"{name} of run {lock.run_id}, profile {where}", *described(found)]))


def _stage_of(recipe: "Recipe", stage: str | None) -> str:
    """The augment stage that is meant; UserError when that is none, or unclear."""
    from pipeline.errors import UserError

    names = [name for name, settings in recipe.stages.items() if settings.kind == "augment"]
    if stage is not None and stage not in names:
        raise UserError(
            f"recipe {recipe.name!r} has no augment stage {stage!r}", f"It has: {', '.join(names) or 'none'}"
        )
    if stage is None and len(names) != 1:
        said = f"has {len(names)} augment stages" + (f": {', '.join(names)}" if names else "")
        raise UserError(f"recipe {recipe.name!r} {said}", "Only an augment stage is estimated: name one")
    return stage or names[0]


def _say(answered: int, asked: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if answered == asked else ""
        print(f"\r{answered} of {asked} samples answered\x1b[K", end=end, file=sys.stderr, flush=True)


def described(found: "Estimate") -> list[str]:
    """The estimate as lines for people, the method beside each figure."""
    from pipeline.reporting.figures import duration

    lines = [
        f"samples   {found.planned:,} planned, {found.answered_before:,} answered before, {found.asked:,} asked now"
        f" in {duration(found.asking_seconds)} and kept, {found.left:,} left"
    ]
    if found.seconds is None or found.speed is None or found.completion_tokens is None or found.prompt_tokens is None:
        return [*lines, "nothing is left to ask"]
    pace, cost = found.speed, found.cost_usd
    lines += [
        f"tokens    {_range(found.prompt_tokens)} of prompt and {_range(found.completion_tokens)} of answer each",
        f"pace      {pace.tokens_per_second:,.0f} tokens of answers a second at {pace.in_flight:.0f} in flight, "
        f"measured over {duration(pace.seconds)} after the first {duration(pace.left_out)}",
        f"time      {duration(found.seconds.value)} ({duration(found.seconds.low)} to {duration(found.seconds.high)})"
        + (f", {duration(found.start_seconds)} of it the engine's start" if found.start_seconds else ""),
    ]
    if cost is not None:
        lines.append(
            f"cost      {cost.value:,.2f} USD ({cost.low:,.2f} to {cost.high:,.2f}) "
            f"at {found.price_usd:g} USD an hour for each of {found.gpus} GPU"
        )
    else:
        lines.append("cost      unknown: the profile has no GPU with a price_per_gpu_hour_usd (see --profiles)")
    reasons = found.rejected or {}
    shares = ", ".join(f"{'' if reason == 'all' else reason + ' '}{_share(reasons[reason])}" for reason in reasons)
    lines += [f"rejected  {shares}", f"quality   {found.quality}", *_notes(found)]
    return lines


def _notes(found: "Estimate") -> list[str]:
    notes = [
        "ranges hold with 95 %: bootstrap over the samples (tokens and seconds of each) for tokens, time and cost, "
        "Wilson's interval for shares"
    ]
    level = found.speed.in_flight if found.speed is not None else 0.0
    bound = found.concurrency
    if isinstance(bound, str) or bound > 1.25 * level:
        notes.append(
            f"the whole keeps {'as many' if isinstance(bound, str) else f'up to {bound}'} in flight"
            f"{' as the engine takes' if isinstance(bound, str) else ''}, measured was {level:.0f}: where more fit, it "
            "is faster and cheaper than said here; more --samples come closer"
        )
    notes.append("N workers take 1/N of the time at the same cost")
    return notes


def _range(found: "Range") -> str:
    return f"{found.value:,.0f} ({found.low:,.0f} to {found.high:,.0f})"


def _share(found: "Range") -> str:
    return f"{found.value:.1%} ({found.low:.1%} to {found.high:.1%})"
