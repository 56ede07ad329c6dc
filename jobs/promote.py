"""The kind `promote`, and what `hanforge promote MODEL [--rollback]` does. Logic: pipeline.scoring.promote."""

from typing import Any

from pipeline.scoring.promote import is_done, preflight, promote_named, rollback, run
from pipeline.store.named import named_model
from pipeline.store.objects import Store

__all__ = ["is_done", "preflight", "promote_word", "rollback_recipe", "run"]


def promote_word(store: Store, word: str) -> dict[str, Any]:
    """`hanforge promote MODEL`: the new promotion's record. GateRefused when its recipe's limits are missed."""
    return promote_named(store, named_model(store, word))


def rollback_recipe(store: Store, recipe: str, to: int | None = None) -> dict[str, Any]:
    """`hanforge promote --rollback RECIPE [--to N]`: the earlier model as a new promotion."""
    return rollback(store, recipe, to)
