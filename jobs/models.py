"""Commands that take a MODEL: fetch, engine, chat, lineage, promote."""

from pathlib import Path
from typing import Annotated

import typer

from jobs import options

JsonSettings = Annotated[
    str | None, typer.Option(help='Engine settings as JSON, e.g. {"max_model_len": 4096}.', metavar="JSON")
]


def fetch(
    model: Annotated[str, typer.Argument(help="A Hub id: ORGANISATION/NAME, or with @REVISION.", metavar="MODEL")],
    store: options.Store = options.STORE,
    dataset: Annotated[bool, typer.Option("--dataset", help="It is a data set, not a model.")] = False,
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit; main by default.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Files at once; each takes about 120 MB of memory.")] = 4,
    as_json: options.Json = False,
) -> None:
    """Mirror a Hub model or data set into the store at a pinned commit, with checksums; pods then need no Hub.

    HF_TOKEN comes from the environment or .env and is never stored. A fetch that was stopped goes on where it was.
    """
    options.configure_logging()
    from pipeline.recipe.known_models import licence_note
    from pipeline.store.hub import described, mirror
    from pipeline.store.probe import open_store

    def report(done: int, total: int, name: str) -> None:
        if not as_json:
            typer.echo(f"{done / 2**20:10,.1f} of {total / 2**20:,.1f} MiB  {name}", err=True)

    mirrored = mirror(open_store(store), model, "dataset" if dataset else "model", revision, concurrency, report)
    if as_json:
        options.print_json(described(mirrored))
        return
    typer.echo(f"{mirrored.id}@{mirrored.revision}: {len(mirrored.parts)} files, {mirrored.bytes / 2**30:.2f} GiB")
    typer.echo(f"  in {mirrored.url}" + (f"  licence {mirrored.licence}" if mirrored.licence else ""))
    note = None if dataset else licence_note(mirrored.id)
    if note:
        typer.echo(f"  {note}")


def engine(
    model: Annotated[
        str | None, typer.Argument(help="What to serve; by default what the stage of --for asks.", metavar="[MODEL]")
    ] = None,
    store: options.Store = options.STORE,
    host: Annotated[str, typer.Option(envvar="HANFORGE_ENGINE_HOST", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="HANFORGE_ENGINE_PORT", help="Where to listen.")] = 8000,
    served_model_name: Annotated[str | None, typer.Option(help="The name that requests carry.")] = None,
    for_stage: Annotated[
        str | None, typer.Option("--for", metavar="RUN:STAGE", help="Take model, settings and name from a stage.")
    ] = None,
    settings: JsonSettings = None,
    promotion: Annotated[
        int | None, typer.Option(envvar="HANFORGE_PROMOTION", help="Serve this promotion, not the highest.")
    ] = None,
    leaving: Annotated[
        Path | None,
        typer.Option(
            envvar="HANFORGE_LEAVING", help="Once this file is there, kept connections close after their next answer."
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--print", help="Print the command and end.")] = False,
) -> None:
    """Serve a model with vLLM in this process; refuses what vLLM cannot load, with the reason, before it starts."""
    from pipeline.engine.launch import Launch, served, settings_from
    from pipeline.store.probe import open_store

    opened = open_store(store)
    chosen, name = settings_from(opened, for_stage, settings)
    wanted = served(opened, model, for_stage, promotion)
    launch = Launch.of(wanted, chosen, served_model_name or name, host, port, leaving)
    if show:
        typer.echo(launch.line())
    else:
        launch.execute()


def chat(
    model: Annotated[
        str,
        typer.Argument(
            help="RUN:STAGE, promoted[@RECIPE], a folder, or a mirrored Hub id; with --endpoint its served name."
        ),
    ],
    store: options.Store = options.STORE,
    endpoint: Annotated[
        str | None, typer.Option(help="An OpenAI-compatible URL ending in /v1 instead of a vLLM of our own.")
    ] = None,
    thinking: Annotated[bool, typer.Option("--thinking", help="Think before the answer.")] = False,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="Type questions: /think, /no_think, quit, exit.")
    ] = False,
    system_prompt: Annotated[str | None, typer.Option(help="A system turn.")] = None,
    temperature: Annotated[float, typer.Option(min=0, max=2)] = 0.7,
    top_p: Annotated[float, typer.Option(min=0, max=1)] = 0.9,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Longest answer with its reasoning, in tokens: 512, or 2048 where it may think."),
    ] = None,
    api_key_env: Annotated[str | None, typer.Option(help="The variable that holds the endpoint's key.")] = None,
    settings: JsonSettings = None,
) -> None:
    """Ask a model the automatic questions, or talk to it; its reasoning is set apart from its answers."""
    from pipeline.engine.session import Session, open_session

    longest = max_tokens or (2048 if thinking or interactive else 512)  # 512 may end before the answer begins
    session = Session(thinking, interactive, system_prompt, temperature, top_p, longest)
    open_session(store, model, endpoint, api_key_env, settings, session)


def lineage(
    model: options.Model,
    store: options.Store = options.STORE,
    rows: Annotated[int, typer.Option(help="Show so many example rows with their raw lines.")] = 0,
    seed: options.Seed = 42,
    as_json: options.Json = False,
) -> None:
    """Say what made a model: stages, settings, rows of which files, teacher, base and code, back to the raw lines."""
    from rich.console import Console

    from pipeline.reporting.lineage import lineage_of
    from pipeline.reporting.lineage_tree import lineage_tree
    from pipeline.store.named import named_model
    from pipeline.store.probe import open_store

    opened = open_store(store)
    found = lineage_of(opened, named_model(opened, model), rows, seed)
    if as_json:
        options.print_json(found)
    else:
        Console().print(lineage_tree(found))


def promote(
    model: Annotated[
        str | None, typer.Argument(help="RUN:STAGE, such as latest:merge2; left out with --rollback.", metavar="MODEL")
    ] = None,
    store: options.Store = options.STORE,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Promote the model before the present one again.")
    ] = False,
    to: Annotated[
        int | None, typer.Option("--to", help="With --rollback: the promotion's number to go back to.")
    ] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="With --rollback: whose promotions.")] = None,
    as_json: options.Json = False,
) -> None:
    """Make a model the one that serving follows, when its recipe's limits allow it; or go back to an earlier one."""
    from pipeline.errors import UserError
    from pipeline.scoring import promote as promotion
    from pipeline.store.named import named_model
    from pipeline.store.probe import open_store

    if rollback == (model is not None):
        raise UserError("promote wants a MODEL or --rollback, one of them", "hanforge promote latest:merge2")
    if not rollback and (to is not None or recipe is not None):
        raise UserError("--to and --recipe have no effect without --rollback", "Add --rollback, or leave them out.")
    opened = open_store(store)
    if model is not None:
        record = promotion.promote_named(opened, named_model(opened, model))
    else:
        record = promotion.rollback(opened, recipe, to)
    if as_json:
        options.print_json(record)
    else:
        typer.echo(f"promotion {record['n']} of {record['recipe']}: {record['run']}:{record['stage']}")
