"""`deploy stage|chain|serve`: onto a cluster by Helm, after looking whether it can work. Logic: jobs.release, k8s."""

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_type_hints

import typer

from jobs import options, release

app = typer.Typer(
    help="Put a recipe's chain, one of its stages, or the promoted model onto a cluster.", no_args_is_help=True
)
RecipeOption = Annotated[str, typer.Option("--recipe", help="A shipped recipe's name or a path to a .yaml file.")]


@dataclass(frozen=True)
class Where:
    """The options of all three: onto which cluster, with which values, and how strictly it is looked at before."""

    store: Annotated[
        str | None,
        typer.Option(
            "--store", envvar="HANFORGE_STORE", help="Where everything lies; by default store.url of the values."
        ),
    ] = None
    namespace: options.Namespace = None
    context: options.Context = None
    release: Annotated[
        str | None, typer.Option(help="The Helm release's name; by default RECIPE, RECIPE-STAGE or RECIPE-serve.")
    ] = None
    values: Annotated[
        list[str], typer.Option("--values", "-f", help="A values file of the chart; repeatable.")
    ] = field(default_factory=list)  # fmt: skip
    profile: Annotated[str | None, typer.Option("--profile", help="Run on this profile instead of the recipe's.")] = (
        None
    )
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look at everything and create nothing.")] = False
    any_nodes: Annotated[
        bool, typer.Option("--any-nodes", help="Deploy though no node fits now: an autoscaler makes them.")
    ] = False
    unseen_store: Annotated[
        bool,
        typer.Option("--unseen-store", help="The store is reached from the pods only: the driver alone looks at it."),
    ] = False


@dataclass(frozen=True)
class What(Where):
    """What the commands of a recipe's stages take besides: the recipe's changes, inputs, profiles, engine."""

    sets: options.Sets = field(default_factory=list)
    overlay: options.Overlays = field(default_factory=list)
    inputs: options.Inputs = field(default_factory=list)
    profiles: Annotated[
        str | None, typer.Option("--profiles", help="Your own profiles.yaml, laid over the shipped one.")
    ] = None
    engine: Annotated[Literal["jobs", "argo"] | None, typer.Option(help="What runs the stages; by default jobs.")] = (
        None
    )


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a function whose argument `given` is one of those classes; its fields become the command's options."""
    hints = get_type_hints(function, include_extras=True)
    told: type[Where] = hints["given"]
    kinds = get_type_hints(told, include_extras=True)
    shared = [
        inspect.Parameter(
            each.name, inspect.Parameter.KEYWORD_ONLY, default=_default(each), annotation=kinds[each.name]
        )
        for each in dataclasses.fields(told)
    ]
    own = [each for each in inspect.signature(function).parameters.values() if each.name != "given"]

    def run(**words: Any) -> None:
        arguments = {each.name: words.pop(each.name) for each in own}
        function(**arguments, given=told(**words))

    run.__name__, run.__doc__ = function.__name__, function.__doc__
    run.__annotations__ = {each.name: hints.get(each.name, each.annotation) for each in (*own, *shared)}
    setattr(run, "__signature__", inspect.Signature([*own, *shared]))  # noqa: B010 - typer reads it
    app.command()(run)
    return function


def _default(each: "dataclasses.Field[Any]") -> Any:
    return each.default_factory() if each.default_factory is not dataclasses.MISSING else each.default


@command
def stage(name: Annotated[str, typer.Argument(help="The stage's name.")], recipe: RecipeOption, *, given: What) -> None:
    """One stage; what it needs must be done in the store."""
    from pipeline.errors import UserError
    from pipeline.recipe import models
    from pipeline.recipe.load import load_recipe

    loaded = load_recipe(recipe, given.overlay, given.sets)
    if name not in loaded.stages:
        hint = models.nearest(name, list(loaded.stages))
        raise UserError(
            f"recipe {loaded.name!r} has no stage {name!r}; {hint}", "Name one: make deploy-stage STAGE=..."
        )
    ours: dict[str, Any] = {"only": [name]}
    if given.profile is not None:
        ours["stages"] = {name: {"profile": given.profile}}
    title = given.release or f"{loaded.name}-{name.replace('_', '-')}"
    release.put_stages(loaded, title, release.values_of(loaded, ours, given), given, recipe)


@command
def chain(recipe: options.Recipe, *, given: What) -> None:
    """The whole chain; what is done costs no pod."""
    from pipeline.recipe.load import load_recipe

    loaded = load_recipe(recipe, given.overlay, given.sets)
    ours = {"profile": given.profile} if given.profile is not None else {}
    release.put_stages(loaded, given.release or loaded.name, release.values_of(loaded, ours, given), given, recipe)


@command
def serve(
    recipe: Annotated[str, typer.Argument(help="The recipe's name: its newest promotion is served.")],
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Return when Helm has; the pods come up by themselves.")
    ] = False,
    *,
    given: Where,
) -> None:
    """The promoted model behind vLLM; again after a promotion or `hanforge promote --rollback` it rolls to that one."""
    release.put_server(recipe, given, no_wait)
