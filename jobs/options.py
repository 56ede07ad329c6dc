"""What several commands share: options with their environment variables, how a store is opened, how text is printed."""

import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from k8s.client import Cluster
    from pipeline.store.objects import Store as OpenStore
    from pipeline.store.runs import RunLock

Store = Annotated[
    str, typer.Option("--store", envvar="HANFORGE_STORE", help="Where everything lies: file://, s3://, any fsspec URL.")
]
Run = Annotated[str, typer.Argument(help="A run's id, or latest[@RECIPE].")]
RunOption = Annotated[str, typer.Option("--run", envvar="HANFORGE_RUN", help="A run's id, or latest[@RECIPE].")]
Recipe = Annotated[str, typer.Argument(help="A shipped recipe's name (hanforge recipes) or a path to a .yaml file.")]
Overlays = Annotated[list[str], typer.Option("--overlay", help="A YAML file laid over the recipe; repeatable.")]
Sets = Annotated[list[str], typer.Option("--set", help="STAGE.KEY=VALUE, e.g. phase1.learning_rate=1e-5; repeatable.")]
Inputs = Annotated[list[str], typer.Option("--input", help="NAME=URL: where a named input lies; repeatable.")]
Profile = Annotated[
    str | None,
    typer.Option("--profile", envvar="HANFORGE_PROFILE", help="Run every stage on this profile instead of its own."),
]
Profiles = Annotated[
    str | None,
    typer.Option("--profiles", envvar="HANFORGE_PROFILES", help="Your own profiles.yaml, laid over the shipped one."),
]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", envvar="HANFORGE_NAMESPACE", help="The namespace; by default the kubeconfig's."),
]
Context = Annotated[str | None, typer.Option(help="The kubeconfig's context; by default the current one.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Full = Annotated[bool, typer.Option("--show-full", help="Whole texts, not their beginnings.")]
Seed = Annotated[int, typer.Option(help="Another number shows other rows.")]
Model = Annotated[
    str, typer.Argument(help="RUN:STAGE, promoted[@RECIPE], a folder or URL, or a mirrored Hub id.", metavar="MODEL")
]

STORE = ".hanforge/store"
ANSWER_SECONDS = 5.0  # somebody waits at the terminal for a cluster or a store that does not answer


def configure_logging(verbose: bool = False) -> None:
    """Log to stderr: one line a record; libraries only from WARNING on."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname).1s %(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("stamina").setLevel(logging.ERROR)  # the end says what each try would have said
    for name in ("hanforge", "pipeline", "jobs", "k8s"):
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.INFO)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def assignments(pairs: list[str], option: str) -> dict[str, str]:
    """["raw=/data"] -> {"raw": "/data"}; UserError when there is no equals sign."""
    from pipeline.errors import UserError

    for pair in pairs:
        if "=" not in pair:
            raise UserError(f"{option} {pair!r}: wants NAME=VALUE", f"Example: {option} raw=s3://bucket/folder")
    return dict(pair.split("=", 1) for pair in pairs)


def opened(store: str, run: str) -> "tuple[OpenStore, RunLock]":
    """The store, and the lock of the run that a word names."""
    from pipeline.store.probe import open_store
    from pipeline.store.runs import find_run

    found = open_store(store)
    return found, find_run(found, run)


def cluster(namespace: str | None, context: str | None) -> "Cluster":
    """The cluster that the kubeconfig means, after it has answered once."""
    from k8s.connection import connect, reachable
    from pipeline.store.retry import patience

    logging.getLogger("stamina").setLevel(logging.ERROR)
    found = connect(namespace, context)
    with patience(ANSWER_SECONDS):
        reachable(found)
    return found


def run_and_stage(place: str, example: str) -> tuple[str, str]:
    """ "latest:prepare" -> ("latest", "prepare"); UserError with the example when it is not RUN:STAGE."""
    from pipeline.errors import UserError

    run, _, stage = place.rpartition(":")
    if not run or not stage:
        raise UserError(f"{place!r} is not RUN:STAGE", f"Example: hanforge {example}")
    return run, stage


def say(text: str) -> None:
    """Print text for people; what data and processes say may hold control characters, which are shown escaped."""
    from pipeline.reporting.samples import printable

    typer.echo(printable(text))


def print_json(document: Any) -> None:
    """Print a document for machines, Korean as it is."""
    typer.echo(json.dumps(document, ensure_ascii=False, indent=2))
