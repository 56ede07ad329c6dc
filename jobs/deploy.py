"""`deploy stage|chain|serve`: onto a cluster by Helm, after looking whether it can work. Logic: k8s.deploy."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from jobs import options

if TYPE_CHECKING:
    from k8s.client import Cluster, Object
    from pipeline.recipe.models import Recipe
    from pipeline.store.objects import Store

CHARTS = Path(__file__).resolve().parent.parent / "charts"

app = typer.Typer(
    help="Put a recipe's chain, one of its stages, or the promoted model onto a cluster.", no_args_is_help=True
)
RecipeOption = Annotated[str, typer.Option("--recipe", help="A shipped recipe's name or a path to a .yaml file.")]
StoreOption = Annotated[
    str | None,
    typer.Option("--store", envvar="HANFORGE_STORE", help="Where everything lies; by default store.url of the values."),
]
Release = Annotated[str | None, typer.Option(help="The Helm release's name; by default RECIPE or RECIPE-STAGE.")]
ValuesOption = Annotated[list[str], typer.Option("--values", "-f", help="A values file of the chart; repeatable.")]
ProfileOption = Annotated[str | None, typer.Option("--profile", help="Run on this profile instead of the recipe's.")]
ProfilesOption = Annotated[
    str | None, typer.Option("--profiles", help="Your own profiles.yaml, laid over the shipped one.")
]
Engine = Annotated[Literal["jobs", "argo"] | None, typer.Option(help="What runs the stages; by default jobs.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Look at everything and create nothing.")]
AnyNodes = Annotated[
    bool, typer.Option("--any-nodes", help="Deploy though no node fits now: an autoscaler makes them.")
]
Unseen = Annotated[
    bool, typer.Option("--unseen-store", help="The store is reached from the pods only: the driver alone looks at it.")
]


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help="The stage's name.")],
    recipe: RecipeOption,
    store: StoreOption = None,
    namespace: options.Namespace = None,
    context: options.Context = None,
    release: Release = None,
    values: ValuesOption = [],
    sets: options.Sets = [],
    overlay: options.Overlays = [],
    inputs: options.Inputs = [],
    profile: ProfileOption = None,
    profiles: ProfilesOption = None,
    engine: Engine = None,
    dry_run: DryRun = False,
    any_nodes: AnyNodes = False,
    unseen_store: Unseen = False,
) -> None:
    """One stage; what it needs must be done in the store."""
    from pipeline.errors import UserError
    from pipeline.recipe import models
    from pipeline.recipe.load import load_recipe

    loaded = load_recipe(recipe, overlay, sets)
    if name not in loaded.stages:
        raise UserError(f"recipe {loaded.name!r} has no stage {name!r}; {models.nearest(name, list(loaded.stages))}")
    ours: dict[str, Any] = {"only": [name]}
    if profile is not None:
        ours["stages"] = {name: {"profile": profile}}
    title = release or f"{loaded.name}-{name.replace('_', '-')}"
    given = _values(loaded, values, ours, store, inputs, profiles, engine)
    _deploy(loaded, [name], title, given, namespace, context, dry_run, any_nodes, unseen_store, recipe)


@app.command()
def chain(
    recipe: options.Recipe,
    store: StoreOption = None,
    namespace: options.Namespace = None,
    context: options.Context = None,
    release: Release = None,
    values: ValuesOption = [],
    sets: options.Sets = [],
    overlay: options.Overlays = [],
    inputs: options.Inputs = [],
    profile: ProfileOption = None,
    profiles: ProfilesOption = None,
    engine: Engine = None,
    dry_run: DryRun = False,
    any_nodes: AnyNodes = False,
    unseen_store: Unseen = False,
) -> None:
    """The whole chain; what is done costs no pod."""
    from pipeline.recipe.load import load_recipe

    loaded = load_recipe(recipe, overlay, sets)
    ours: dict[str, Any] = {"profile": profile} if profile is not None else {}
    given = _values(loaded, values, ours, store, inputs, profiles, engine)
    scope = list(given.get("only") or loaded.stages)
    _deploy(loaded, scope, release or loaded.name, given, namespace, context, dry_run, any_nodes, unseen_store, recipe)


@app.command()
def serve(
    recipe: Annotated[str, typer.Argument(help="The recipe's name: its newest promotion is served.")],
    store: StoreOption = None,
    namespace: options.Namespace = None,
    context: options.Context = None,
    release: Release = None,
    values: ValuesOption = [],
    profile: ProfileOption = None,
    dry_run: DryRun = False,
    any_nodes: AnyNodes = False,
    unseen_store: Unseen = False,
) -> None:
    """The promoted model behind vLLM; again after a promotion or `hanforge promote --rollback` it rolls to that one."""
    from k8s import helm
    from k8s.serving import follow_promotion
    from pipeline.errors import UserError
    from pipeline.store.promotions import newest_promotion

    given = helm.laid_over({"model": f"promoted@{recipe}"}, helm.read_values(values))
    given = helm.laid_over(given, {"profile": profile} if profile is not None else {})
    given = helm.laid_over(given, {"store": {"url": _store_url(store, given)}})
    n = 0
    if not unseen_store and str(given["model"]).startswith("promoted@"):
        n = int(newest_promotion(_opened(given), str(given["model"]).partition("@")[2])["n"])
    title = release or f"{recipe}-serve"
    cluster = options.cluster(namespace, context)
    objects = helm.rendered(CHARTS / "hanforge-serve", title, cluster.namespace, given)
    _look(cluster, objects, any_nodes, dry_run)
    if dry_run:
        return
    helm.installed(CHARTS / "hanforge-serve", title, cluster.namespace, given, context)
    for item in objects if n else ():
        if item["kind"] == "Deployment" and not follow_promotion(cluster, item["metadata"]["name"], n):
            raise UserError(f"Deployment {item['metadata']['name']!r} is gone again", "Deploy once more")
    options.say(f"release {title} serves promotion {n or '(as the pods find it)'} in namespace {cluster.namespace}")


def _values(
    recipe: "Recipe",
    files: list[str],
    ours: dict[str, Any],
    store: str | None,
    inputs: list[str],
    profiles: str | None,
    engine: str | None,
) -> dict[str, Any]:
    """The chart's values: the user's files, and over them what the command line says."""
    from k8s.helm import laid_over, read_values
    from pipeline.recipe.render import text

    given = laid_over(read_values(files), ours)
    given = laid_over(
        given, {"recipe": text(recipe), "recipeName": "", "inputs": options.assignments(inputs, "--input")}
    )
    if profiles is not None:
        given = laid_over(given, {"profiles": read_values([profiles])})
    if engine is not None:
        given["engine"] = engine
    return laid_over(given, {"store": {"url": _store_url(store, given)}})


def _store_url(store: str | None, values: dict[str, Any]) -> str:
    from pipeline.errors import UserError

    url = store or (values.get("store") or {}).get("url")
    if not url:
        raise UserError("no store is named", "Say --store s3://bucket/folder, or set store.url in a values file")
    return str(url)


def _deploy(
    recipe: "Recipe",
    scope: list[str],
    release: str,
    values: dict[str, Any],
    namespace: str | None,
    context: str | None,
    dry_run: bool,
    any_nodes: bool,
    unseen_store: bool,
    word: str,
) -> None:
    """Look at the store, the chart and the cluster; then let Helm install."""
    from k8s import helm
    from k8s.client import JOBSETS

    options.configure_logging()
    if not unseen_store:
        values = {"salt": _look_at_store(recipe, scope, values, word), **values}
    cluster = options.cluster(namespace, context)
    if values.get("gang", "auto") == "auto":
        values = {**values, "gang": "jobset" if cluster.serves(JOBSETS) else "job"}
    objects = helm.rendered(CHARTS / "hanforge", release, cluster.namespace, values)
    _look(cluster, objects, any_nodes, dry_run)
    if dry_run:
        return
    helm.installed(CHARTS / "hanforge", release, cluster.namespace, values, context)
    options.say(f"release {release} is in namespace {cluster.namespace}: {len(scope)} stages in scope")
    where = f"--release {release} --namespace {cluster.namespace}"
    options.say(f"next: hanforge status latest@{recipe.name} --watch; hanforge why latest@{recipe.name}")
    options.say(f"before the driver has reached the store: hanforge why {where}")


def _look_at_store(recipe: "Recipe", scope: list[str], values: dict[str, Any], word: str) -> int:
    """The run's salt; UserError when a stage outside is not done, an input is missing, or memory cannot suffice."""
    from jobs.run import pinned
    from pipeline.errors import UserError
    from pipeline.reporting.plan import check_fits, plan_of
    from pipeline.store.runs import salt_of
    from pipeline.store.standing import is_done
    from pipeline.store.status import why_not_done

    store = _opened(values)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as own:
        profiles = _own_profiles(values, own)
        override = _override(recipe, values)
        pairs = [f"{name}={url}" for name, url in (values.get("inputs") or {}).items()]
        lock = pinned(store, recipe, pairs, override, profiles, narrowed=set(scope) != set(recipe.stages))
        for name in scope:
            for other in lock.stages[name].needs:
                if other not in scope and not is_done(store, lock, other):
                    raise UserError(
                        f"stage {name!r} needs {other!r}, which is not done: {why_not_done(store, lock, other)}",
                        f"Run it first: make deploy-stage STAGE={other} RECIPE={word}",
                    )
        plans = plan_of(recipe, store.url, values.get("inputs") or {}, override, profiles).stages
    check_fits([plan for plan in plans if plan.name in scope])
    return salt_of(store, lock)


def _opened(values: dict[str, Any]) -> "Store":
    """The store as seen from here; it must answer soon."""
    from pipeline.errors import Trouble, UserError
    from pipeline.store.probe import open_store
    from pipeline.store.retry import patience

    url = values["store"]["url"]
    hint = "Correct store.url, its endpoint and your credentials, or say --unseen-store where only pods reach it"
    try:
        with patience(options.ANSWER_SECONDS):
            return open_store(url)
    except Trouble as error:
        raise UserError(f"the store {url} cannot be reached from here: {error.what}", hint) from error


def _own_profiles(values: dict[str, Any], target: Any) -> str | None:
    """The values' own profiles as a file that Python lays over the shipped ones."""
    import json

    if not values.get("profiles"):
        return None
    json.dump(values["profiles"], target)
    target.flush()
    return str(target.name)


def _override(recipe: "Recipe", values: dict[str, Any]) -> str | None:
    """Which stages run on another profile than the recipe's, as the chart says it to the pods."""
    own = values.get("stages") or {}
    chosen = {
        name: (own.get(name) or {}).get("profile") or values.get("profile") or settings.profile
        for name, settings in recipe.stages.items()
    }
    return ",".join(f"{name}={one}" for name, one in chosen.items() if one != recipe.stages[name].profile) or None


def _look(cluster: "Cluster", objects: "list[Object]", any_nodes: bool, dry_run: bool) -> None:
    from k8s.deploy import check

    for note in check(cluster, objects, any_nodes):
        options.say(f"note: {note}")
    if dry_run:
        options.say(f"nothing speaks against it: {len(objects)} objects for namespace {cluster.namespace}")
