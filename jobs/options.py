"""The options that several commands share; each has an environment variable."""

import logging
import os
import sys
from typing import Annotated

import typer

StoreOption = Annotated[
    str, typer.Option("--store", envvar="HANFORGE_STORE", help="Where everything lies: file://, s3://, any fsspec URL.")
]
RunOption = Annotated[str, typer.Option("--run", envvar="HANFORGE_RUN", help="A run's id, or latest[@RECIPE].")]
RecipeArgument = Annotated[
    str, typer.Argument(help="A shipped recipe's name (hanforge recipes) or a path to a .yaml file.")
]
OverlayOption = Annotated[list[str], typer.Option("--overlay", help="A YAML file laid over the recipe; repeatable.")]
SetOption = Annotated[
    list[str], typer.Option("--set", help="STAGE.KEY=VALUE, e.g. phase1.learning_rate=1e-5; repeatable.")
]
InputOption = Annotated[list[str], typer.Option("--input", help="NAME=URL: where a named input lies; repeatable.")]
ProfileOption = Annotated[
    str | None,
    typer.Option("--profile", envvar="HANFORGE_PROFILE", help="Run every stage on this profile instead of its own."),
]
ProfilesOption = Annotated[
    str | None,
    typer.Option("--profiles", envvar="HANFORGE_PROFILES", help="Your own profiles.yaml, laid over the shipped one."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
ModelArgument = Annotated[
    str, typer.Argument(help="RUN:STAGE, promoted[@RECIPE], a folder or URL, or a mirrored Hub id.", metavar="MODEL")
]

DEFAULT_STORE = ".hanforge/store"


def configure_logging(verbose: bool = False) -> None:
    """Log to stderr: one line a record; libraries only from WARNING on."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname).1s %(name)s: %(message)s", stream=sys.stderr
    )
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
