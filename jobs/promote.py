"""The kind `promote`, and `hanforge promote MODEL [--rollback]`. Logic: pipeline.scoring.promote, imported late."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.options import DEFAULT_STORE, JsonOption, StoreOption

if TYPE_CHECKING:
    from pipeline.store.objects import Store
    from pipeline.store.stage import Stage


def preflight(stage: "Stage") -> None:
    """UserError when the model is no stage's output, or the scores are not its own."""
    from pipeline.scoring import promote

    promote.preflight(stage)


def run(stage: "Stage") -> None:
    """Judge and promote; GateRefused when the scores do not suffice."""
    from pipeline.scoring import promote

    promote.run(stage)


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("promote")(promote_command)


def promote_command(
    model: Annotated[
        str | None, typer.Argument(help="RUN:STAGE, such as latest:merge2; left out with --rollback.", metavar="MODEL")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Promote the model before the present one again.")
    ] = False,
    to: Annotated[
        int | None, typer.Option("--to", help="With --rollback: the promotion's number to go back to.")
    ] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="With --rollback: whose promotions.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a model the one that serving follows, when its recipe's limits allow it; or go back to an earlier one."""
    import json

    from pipeline.errors import UserError
    from pipeline.store.probe import open_store

    if rollback == (model is not None):
        raise UserError("promote wants a MODEL or --rollback, one of them", "hanforge promote latest:merge2")
    if not rollback and (to is not None or recipe is not None):
        raise UserError("--to and --recipe have no effect without --rollback", "Add --rollback, or leave them out.")
    opened = open_store(store)
    record = promote_word(opened, model) if model is not None else rollback_recipe(opened, recipe, to)
    if as_json:
        typer.echo(json.dumps(record, ensure_ascii=False, indent=2))
    else:
        typer.echo(f"promotion {record['n']} of {record['recipe']}: {record['run']}:{record['stage']}")


def promote_word(store: "Store", word: str) -> dict[str, Any]:
    """Promote the model that a MODEL word names; GateRefused when its recipe's limits are missed."""
    from pipeline.scoring.promote import promote_named
    from pipeline.store.named import named_model

    return promote_named(store, named_model(store, word))


def rollback_recipe(store: "Store", recipe: str | None = None, to: int | None = None) -> dict[str, Any]:
    """Promote an earlier model again; without a recipe, that of the only one that has promotions."""
    from pipeline.scoring.promote import rollback
    from pipeline.store.promotions import newest_promotion

    return rollback(store, recipe or str(newest_promotion(store)["recipe"]), to)
