"""`fetch`: mirror a Hub model or data set into the store. Logic: pipeline.store.hub."""

import json
from typing import Annotated

import typer

from jobs.options import DEFAULT_STORE, JsonOption, StoreOption, configure_logging


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("fetch")(fetch)


def fetch(
    model: Annotated[str, typer.Argument(help="A Hub id: ORGANISATION/NAME, or with @REVISION.", metavar="MODEL")],
    store: StoreOption = DEFAULT_STORE,
    dataset: Annotated[bool, typer.Option("--dataset", help="It is a data set, not a model.")] = False,
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit; main by default.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Files at once; each takes about 120 MB of memory.")] = 4,
    as_json: JsonOption = False,
) -> None:
    """Mirror a Hub model or data set into the store at a pinned commit, with checksums; pods then need no Hub.

    HF_TOKEN comes from the environment or .env and is never stored. A fetch that was stopped goes on where it was.
    """
    configure_logging()
    from pipeline.recipe.known_models import licence_note
    from pipeline.store.hub import described, mirror
    from pipeline.store.probe import open_store

    def report(done: int, total: int, name: str) -> None:
        if not as_json:
            typer.echo(f"{done / 2**20:10,.1f} of {total / 2**20:,.1f} MiB  {name}", err=True)

    mirrored = mirror(open_store(store), model, "dataset" if dataset else "model", revision, concurrency, report)
    if as_json:
        typer.echo(json.dumps(described(mirrored), ensure_ascii=False, indent=2))
        return
    typer.echo(f"{mirrored.id}@{mirrored.revision}: {len(mirrored.parts)} files, {mirrored.bytes / 2**30:.2f} GiB")
    typer.echo(f"  in {mirrored.url}" + (f"  licence {mirrored.licence}" if mirrored.licence else ""))
    note = None if dataset else licence_note(mirrored.id)
    if note:
        typer.echo(f"  {note}")
