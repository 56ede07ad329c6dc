"""`driver`: the chain's driver and observer, run by the chart in the cluster. Logic: k8s.driver."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options

if TYPE_CHECKING:
    from k8s.chain import Chain
    from pipeline.store.objects import Store
    from pipeline.store.stop import StopFlag

LOG = logging.getLogger("hanforge")


def driver(
    store: options.Store = options.STORE,
    recipe: Annotated[Path, typer.Option(envvar="HANFORGE_RECIPE", help="The resolved recipe.")] = Path(
        "/etc/hanforge/recipe.yaml"
    ),
    manifests: Annotated[
        Path, typer.Option(envvar="HANFORGE_MANIFESTS", help="chain.json and each stage's Job, as the chart made them.")
    ] = Path("/etc/hanforge/manifests"),
    namespace: options.Namespace = None,
    inputs: options.Inputs = [],
    profile: options.Profile = None,
    profiles: options.Profiles = None,
    preflight_only: Annotated[
        Path | None,
        typer.Option(help="Make the lock, check, write `done` or `open` for each stage into this folder, and end."),
    ] = None,
    only: Annotated[str | None, typer.Option(help="Drive this stage alone: a step of an Argo Workflow.")] = None,
    observe_only: Annotated[
        bool, typer.Option("--observe-only", help="Only write what an Argo Workflow does.")
    ] = False,
) -> None:
    """Drive a chain in the cluster: create each stage's Job when it is ready. Exit codes as the stage that ended it."""
    options.configure_logging()
    from jobs.stage import say_to_pod
    from k8s.chain import read_chain
    from pipeline.errors import HanforgeError
    from pipeline.store.probe import open_store
    from pipeline.store.stop import StopFlag

    stop = StopFlag()
    stop.listen()
    try:
        chain = read_chain(manifests)
        opened = open_store(store)
        if observe_only:
            _observe(opened, chain, namespace, stop)
        else:
            _drive(opened, chain, recipe, inputs, profile, profiles, namespace, preflight_only, only, stop)
    except HanforgeError as error:
        say_to_pod(f"driver: {error}", aloud=False)
        raise
    say_to_pod("driver: done", aloud=False)


def _observe(store: "Store", chain: "Chain", namespace: str | None, stop: "StopFlag") -> None:
    from k8s.connection import connect
    from k8s.driver import observe

    observe(connect(namespace), store, chain, stop)


def _drive(
    store: "Store",
    chain: "Chain",
    recipe: Path,
    inputs: list[str],
    profile: str | None,
    profiles: str | None,
    namespace: str | None,
    states: Path | None,
    only: str | None,
    stop: "StopFlag",
) -> None:
    """The lock, what can be known to be wrong now, and then the chain (or the `states` of its stages, for Argo)."""
    from jobs.early import check_early
    from jobs.run import named_run
    from k8s.connection import connect
    from k8s.driver import drive, open_stages, say_who
    from pipeline.local.chain import Options
    from pipeline.store.pins import check_contract
    from pipeline.store.runs import create_run

    names = tuple(chain.needs)
    candidate = named_run(store, str(recipe), chain.run, inputs, profile, profiles, set(names) != _all_stages(recipe))
    check_early(store, candidate, Options(only=names))
    lock = create_run(store, candidate, chain.run)
    for name in names:
        check_contract(lock, name)
    cluster = connect(namespace)
    say_who(store, chain, cluster.namespace, lock.recipe.name)
    if states is not None:
        states.mkdir(parents=True, exist_ok=True)
        for name, is_open in open_stages(store, lock, chain).items():
            (states / name).write_text("open" if is_open else "done", "utf-8")
        return
    mine = chain.alone(only) if only is not None else chain
    drive(cluster, store, lock, mine, stop)
    LOG.info("all %d stages done", len(mine.needs))


def _all_stages(recipe: Path) -> set[str]:
    from pipeline.recipe.load import load_recipe

    return set(load_recipe(str(recipe)).stages)
