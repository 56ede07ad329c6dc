"""`run`, `stage`: do the work of a recipe, here."""

from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options

if TYPE_CHECKING:
    from pipeline.recipe.models import Recipe
    from pipeline.store.objects import Store
    from pipeline.store.runs import RunLock


def run(
    recipe: options.Recipe,
    store: options.Store = options.STORE,
    only: Annotated[
        list[str], typer.Option("--only", help="Only this stage; what it needs must be done. Repeatable.")
    ] = [],
    start: Annotated[str | None, typer.Option("--from", help="This stage and whatever depends on it.")] = None,
    sets: options.Sets = [],
    overlay: options.Overlays = [],
    inputs: options.Inputs = [],
    profile: options.Profile = None,
    profiles: options.Profiles = None,
    upstream: Annotated[str | None, typer.Option(help="Inherit the inputs' identities from this run.")] = None,
    repin: Annotated[bool, typer.Option("--repin", help="With --only or --from: look at the inputs again.")] = False,
    parallel: Annotated[int, typer.Option(min=1, help="Stages at once.")] = 1,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every process's own output.")] = False,
) -> None:
    """Run a recipe's stages on this machine; what is done stays done, and a second run goes on."""
    options.configure_logging(verbose)
    from jobs.early import check_early
    from jobs.live import LiveTable
    from pipeline.errors import UserError
    from pipeline.local.chain import Options, run_chain
    from pipeline.recipe.load import load_recipe
    from pipeline.store import events
    from pipeline.store.probe import open_store
    from pipeline.store.runs import create_run, known_run
    from pipeline.store.stop import StopFlag

    if only and start:
        raise UserError("--only and --from both narrow the run", "Give one of them")
    if repin and (upstream is not None or not (only or start)):
        raise UserError("--repin has no effect without --only or --from, or beside --upstream", "Leave it out")
    loaded = load_recipe(recipe, overlay, sets)
    opened = open_store(store)
    narrowed = bool(only or start) and not repin
    candidate = pinned(opened, loaded, inputs, profile, profiles, upstream, narrowed, only or list(loaded.stages))
    chosen = Options(tuple(only), start, parallel, verbose=verbose)
    check_early(opened, known_run(opened, candidate) or candidate, chosen)
    lock = create_run(opened, candidate)
    events.say(opened, lock.run_id, "", "asked for", message=f"hanforge run {recipe}")
    stop = StopFlag()
    stop.listen()
    with LiveTable(opened, lock, chosen) as table:
        run_chain(opened, lock, chosen, stop, table.show)


def pinned(
    store: "Store",
    recipe: "Recipe",
    inputs: list[str],
    profile: str | None = None,
    profiles_file: str | None = None,
    upstream: str | None = None,
    narrowed: bool = False,
    fetch_for: list[str] | None = None,
) -> "RunLock":
    """The lock that this recipe means now. A narrowed run inherits identities from the recipe's newest run.

    Models that the stages `fetch_for` read are mirrored first; of other stages' models only the commit is asked for.
    """
    from pipeline.errors import UserError
    from pipeline.recipe.references import is_hub_id, references_in
    from pipeline.store.hub import ensure_model, pinned_revision
    from pipeline.store.pins import resolve
    from pipeline.store.runs import find_run, run_ids

    keep = None
    if upstream is not None:
        keep = find_run(store, upstream)
    elif narrowed and any(name.startswith(f"{recipe.name}-") for name in run_ids(store)):
        try:
            keep = find_run(store, f"latest@{recipe.name}")
        except UserError:
            keep = None
    pins: dict[str, str] = {}
    for name, settings in recipe.stages.items() if fetch_for is not None else ():
        for _, reference, _ in references_in(settings):
            if is_hub_id(reference) and (keep is None or reference not in keep.hub_models):
                wanted = name in (fetch_for or ())
                pins[reference] = (
                    ensure_model(store, reference).revision if wanted else pinned_revision(store, reference)
                )
    return resolve(store, recipe, options.assignments(inputs, "--input"), keep, profile, profiles_file, pins=pins)


def named_run(
    store: "Store",
    recipe: str,
    run: str | None,
    inputs: list[str],
    profile: str | None,
    profiles: str | None,
    narrowed: bool = False,
) -> "RunLock":
    """What a process that was given a recipe and a run's id would lock under it.

    Who finds the lock obeys it: its inputs as they were pinned, whatever lies there now.
    """
    from pipeline.recipe.load import load_recipe

    standing = run if run is not None and store.exists(f"runs/{run}.json") else None
    given = inputs if standing is None else []
    return pinned(store, load_recipe(recipe), given, profile, profiles, standing, narrowed)


def stage(
    name: Annotated[str, typer.Argument(help="The stage's name.")],
    store: options.Store = options.STORE,
    run: Annotated[str | None, typer.Option("--run", envvar="HANFORGE_RUN", help="The run's id.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", envvar="HANFORGE_RECIPE", help="The recipe, when this process may be the run's first."
        ),
    ] = None,
    inputs: options.Inputs = [],
    profile: options.Profile = None,
    profiles: options.Profiles = None,
    index: Annotated[int, typer.Option("--index", envvar=["HANFORGE_INDEX", "JOB_COMPLETION_INDEX"], min=0)] = 0,
    of: Annotated[int, typer.Option("--of", envvar="HANFORGE_OF", min=1)] = 1,
) -> None:
    """Do one stage of a run, the images' entrypoint. Exit codes: 2 mend something, 3 refused, 143 stopped, 1 retry."""
    options.configure_logging()
    from jobs.stage import run_stage
    from pipeline.errors import UserError
    from pipeline.local.chain import die_with_parent
    from pipeline.store.pins import check_contract
    from pipeline.store.probe import open_store
    from pipeline.store.runs import create_run, find_run
    from pipeline.store.stage import Stage
    from pipeline.store.stop import StopFlag

    die_with_parent()
    stop = StopFlag()
    stop.listen()
    if index >= of:
        raise UserError(f"--index {index} with --of {of}: an index counts from 0 and stays below the number of workers")
    opened = open_store(store)
    if recipe is not None:
        lock = create_run(opened, named_run(opened, recipe, run, inputs, profile, profiles), run)
    elif run is not None:
        lock = find_run(opened, run)
    else:
        raise UserError("neither --run nor --recipe is given", "Name the run, or the recipe that starts one")
    lock.settings(name)
    check_contract(lock, name)
    raise typer.Exit(run_stage(Stage(opened, lock, name, index, of, stop)))
