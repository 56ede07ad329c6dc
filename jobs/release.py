"""Puts a release onto a cluster for `deploy`: its values, a look at the store, the chart and the cluster, then Helm.

Each look says what it looks at before it does, since it may take seconds; nothing is created before all have passed.
"""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from jobs import options

if TYPE_CHECKING:
    from jobs.deploy import What, Where
    from k8s.client import Cluster, Object
    from pipeline.recipe.models import Recipe
    from pipeline.store.objects import Store

CHARTS = Path(__file__).resolve().parent.parent / "charts"
Values = dict[str, Any]


def values_of(recipe: "Recipe", ours: Values, given: "What") -> Values:
    """The chart's values: the user's files, and over them what the command line says."""
    from k8s.helm import laid_over, read_values
    from pipeline.recipe.render import text

    inputs = options.assignments(given.inputs, "--input")
    out = laid_over(read_values(given.values), ours)
    out = laid_over(out, {"recipe": text(recipe), "recipeName": "", "inputs": inputs})
    if given.profiles is not None:
        out = laid_over(out, {"profiles": read_values([given.profiles])})
    if given.engine is not None:
        out["engine"] = given.engine
    return _with_store(out, given.store)


def put_stages(recipe: "Recipe", title: str, values: Values, given: "Where", word: str) -> None:
    """A release of charts/hanforge; `word` is how the user named the recipe."""
    cluster = options.cluster(given.namespace, given.context)
    scope = list(values.get("only") or recipe.stages)
    note = ""
    if not given.unseen_store:
        salt, done = _look_at_store(recipe, scope, values, word)
        values = {"salt": salt, **values}
        note = f", {done} of them done already" if done else ""
    objects = _look_at_cluster(cluster, "hanforge", title, values, given)
    if given.dry_run:
        return
    _install("hanforge", title, cluster, values, given)
    from k8s.deploy import run_of

    run, url = run_of(objects), values["store"]["url"]
    where = f"{title} --namespace {cluster.namespace}"
    counted = "1 stage" if len(scope) == 1 else f"{len(scope)} stages"
    options.say(f"release {title} is in namespace {cluster.namespace}: {counted}{note}; run {run}")
    options.say(f"  follow it          hanforge status {run} --store {url} --watch")
    options.say(f"  why it waits       hanforge why {run} --store {url}")
    options.say(f"  no such run yet?   hanforge why --release {where}")
    options.say(f"  stop, then go on   hanforge stop {where}; hanforge retry {where}")


def put_server(recipe: str, given: "Where", no_wait: bool = False) -> None:
    """A release of charts/hanforge-serve; without `no_wait` returns when its pods serve the model."""
    from k8s import helm
    from k8s.serving import follow_promotion, until_rolled_out

    values = helm.laid_over({"model": f"promoted@{recipe}"}, helm.read_values(given.values))
    values = helm.laid_over(values, {"profile": given.profile} if given.profile is not None else {})
    values = _with_store(values, given.store)
    cluster = options.cluster(given.namespace, given.context)
    what = str(values["model"]) if given.unseen_store else _look_at_model(values)
    title = given.release or f"{recipe}-serve"
    _look_at_cluster(cluster, "hanforge-serve", title, values, given)
    if given.dry_run:
        return
    if values.get("promotion"):  # a serve stage may have written the annotation, which Helm would not overwrite
        follow_promotion(cluster, title, int(values["promotion"]))
    _install("hanforge-serve", title, cluster, values, given)
    options.say(f"release {title} is in namespace {cluster.namespace} and is to serve {what}")
    if no_wait:
        options.say(f"next: hanforge why --release {title} --namespace {cluster.namespace}")
        return
    until_rolled_out(cluster, title, what, say=options.say)
    options.say(f"{title} serves {what}")
    for line in _how_to_ask(title, cluster.namespace, values):
        options.say(line)


def _look_at_model(values: Values) -> str:
    """What will be served, in words; writes the promotion's number into the values. UserError when it cannot be."""
    from pipeline.store.named import named_model
    from pipeline.store.promotions import newest_promotion

    store, word, n = _opened(values), str(values["model"]), None
    if word.partition("@")[0] == "promoted":
        asked = values.get("promotion")
        n = int(newest_promotion(store, word.partition("@")[2], int(asked) if asked else None)["n"])
        values["promotion"] = str(n)
    return named_model(store, word, n).label


def _how_to_ask(release: str, namespace: str, values: Values) -> list[str]:
    """The addresses, and a line for a shell that asks."""
    key, port = values.get("apiKey") or {}, (values.get("service") or {}).get("port", 8000)
    name = values.get("servedModelName", "hanforge")
    secret = f"kubectl get secret --namespace {namespace} {key.get('secret')}"
    entry = str(key.get("key", "api-key")).replace(".", "\\.")
    export = f"export KEY=$({secret} --output jsonpath='{{.data.{entry}}}' | base64 --decode)"
    header = ' --header "Authorization: Bearer $KEY"' if key.get("secret") else ""
    body = f'{{"model": "{name}", "messages": [{{"role": "user", "content": "안녕하세요"}}]}}'
    with_key = " --api-key-env KEY" if header else ""
    return [
        f"  in the cluster   http://{release}.{namespace}:{port}/v1",
        f"  from here        kubectl port-forward --namespace {namespace} service/{release} 8000:{port}",
        *([f"                   {export}"] if header else []),
        "  ask it           curl http://127.0.0.1:8000/v1/chat/completions --header 'Content-Type: application/json'"
        f"{header} --data '{body}'",
        f"                   hanforge chat {name} --endpoint http://127.0.0.1:8000/v1{with_key} --interactive",
    ]


def _with_store(values: Values, store: str | None) -> Values:
    from k8s.helm import laid_over
    from pipeline.errors import UserError

    url = store or (values.get("store") or {}).get("url")
    if not url:
        raise UserError("no store is named", "Say --store s3://bucket/folder, or set store.url in a values file")
    return laid_over(values, {"store": {"url": str(url)}})


def _look_at_cluster(cluster: "Cluster", chart: str, title: str, values: Values, given: "Where") -> "list[Object]":
    """The chart's objects, when nothing speaks against them in that cluster."""
    from k8s import helm
    from k8s.deploy import check

    objects = helm.rendered(CHARTS / chart, title, cluster.namespace, values)
    _say_step(f"looking at the cluster {cluster.host}, namespace {cluster.namespace}")
    for note in check(cluster, objects, given.any_nodes):
        options.say(f"note: {note}")
    if given.dry_run:
        options.say(f"nothing speaks against it: {len(objects)} objects for namespace {cluster.namespace}")
    return objects


def _install(chart: str, title: str, cluster: "Cluster", values: Values, given: "Where") -> None:
    from k8s import helm

    _say_step(f"installing release {title}")
    helm.installed(CHARTS / chart, title, cluster.namespace, values, given.context)


def _say_step(what: str) -> None:
    typer.echo(f"{what} ...", err=True)


def _look_at_store(recipe: "Recipe", scope: list[str], values: Values, word: str) -> tuple[int, int]:
    """The run's salt, and how many stages in scope are done.

    UserError when a stage outside is not done, an input is missing, or memory cannot suffice.
    """
    from jobs.run import pinned
    from pipeline.errors import UserError
    from pipeline.reporting.plan import check_fits, plan_of
    from pipeline.store.probe import looking
    from pipeline.store.runs import known_run, salt_of
    from pipeline.store.standing import is_done
    from pipeline.store.status import why_not_done

    options.configure_logging()
    store = _opened(values)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as own, looking(options.ANSWER_SECONDS):
        profiles = _own_profiles(values, own)
        override = _override(recipe, values)
        pairs = [f"{name}={url}" for name, url in (values.get("inputs") or {}).items()]
        meant = pinned(store, recipe, pairs, override, profiles, narrowed=set(scope) != set(recipe.stages))
        lock = known_run(store, meant) or meant  # by its own id: a promotion is the run's that wrote it
        for name in scope:
            for other in lock.stages[name].needs:
                if other not in scope and not is_done(store, lock, other):
                    raise UserError(
                        f"stage {name!r} needs {other!r}, which is not done: {why_not_done(store, lock, other)}",
                        f"Run it first: make deploy-stage STAGE={other} RECIPE={word}",
                    )
        plans = plan_of(recipe, store.url, values.get("inputs") or {}, override, profiles).stages
    in_scope = [plan for plan in plans if plan.name in scope]
    check_fits(in_scope)
    return salt_of(store, lock), sum(plan.done for plan in in_scope)


def _opened(values: Values) -> "Store":
    """The store as seen from here; it must answer soon."""
    from pipeline.errors import Trouble, UserError
    from pipeline.store.probe import looking, open_store

    url = values["store"]["url"]
    _say_step(f"looking at the store {url}")
    hint = "Correct store.url, its endpoint and your credentials, or say --unseen-store where only pods reach it"
    try:
        with looking(options.ANSWER_SECONDS):
            return open_store(url)
    except Trouble as error:
        raise UserError(f"the store {url} cannot be reached from here: {error.what}", hint) from error


def _own_profiles(values: Values, target: Any) -> str | None:
    """The values' own profiles as a file that Python lays over the shipped ones."""
    if not values.get("profiles"):
        return None
    json.dump(values["profiles"], target)
    target.flush()
    return str(target.name)


def _override(recipe: "Recipe", values: Values) -> str | None:
    """Which stages run on another profile than the recipe's, as the chart says it to the pods."""
    own = values.get("stages") or {}
    chosen = {
        name: (own.get(name) or {}).get("profile") or values.get("profile") or settings.profile
        for name, settings in recipe.stages.items()
    }
    return ",".join(f"{name}={one}" for name, one in chosen.items() if one != recipe.stages[name].profile) or None
