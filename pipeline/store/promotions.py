"""Promotions as the store holds them: `promotions/<recipe>/<n>.json`, numbered and create-only; serving follows the
highest n. pipeline.scoring.promote writes them.
"""

from typing import Any

import orjson

from pipeline.errors import UserError
from pipeline.store.commit import StageDirectory
from pipeline.store.objects import Entry, Store

Promotion = dict[str, Any]


def promotion_key(recipe: str, n: int) -> str:
    """Where a recipe's promotion number n lies."""
    return f"promotions/{recipe}/{n}.json"


def proof_key(directory: StageDirectory, n: int) -> str:
    """Where a serve stage's proof that promotion n answers lies: beside the manifest, since each n wants its own."""
    return directory.key("proofs", f"{n}.json")


def promotions(store: Store, recipe: str) -> list[Promotion]:
    """Every promotion of a recipe, ascending by n."""
    return [_read(store, entry) for entry in _entries(store, recipe)]


def newest_promotion(store: Store, recipe: str = "", n: int | None = None) -> Promotion:
    """The highest promotion of a recipe, or of the only recipe that has any, or its number `n`; UserError for none."""
    names = [recipe] if recipe else store.folders("promotions")
    if len(names) > 1:
        raise UserError(
            f"'promoted' is ambiguous: recipes {', '.join(names)} have promotions", f"Say promoted@{names[0]}"
        )
    found = highest_promotion(store, names[0]) if names else None
    if found is None:
        raise UserError(
            f"nothing is promoted{f' for recipe {recipe!r}' if recipe else ''} in {store.url}", "hanforge promote MODEL"
        )
    numbers = {record["n"]: record for record in promotions(store, names[0])} if n is not None else {}
    if n is not None and n not in numbers:
        raise UserError(
            f"recipe {names[0]!r} has no promotion {n} in {store.url}; it has {', '.join(map(str, numbers))}",
            "Name one of these, or none for the highest",
        )
    return found if n is None else numbers[n]


def highest_promotion(store: Store, recipe: str) -> Promotion | None:
    """The recipe's promotion with the highest n, None while there is none."""
    entries = _entries(store, recipe)
    return _read(store, entries[-1]) if entries else None


def own_promotion(store: Store, recipe: str, run: str, stage: str) -> Promotion | None:
    """The promotion that a run's promote stage wrote, the newest when there are several."""
    newest_first = (_read(store, entry) for entry in reversed(_entries(store, recipe)))
    return next((record for record in newest_first if (record["run"], record["by"]) == (run, stage)), None)


def _entries(store: Store, recipe: str) -> list[Entry]:
    numbered = {_stem(entry): entry for entry in store.list(f"promotions/{recipe}")}
    return [numbered[stem] for stem in sorted((stem for stem in numbered if stem.isdigit()), key=int)]


def _stem(entry: Entry) -> str:
    return entry.key.rsplit("/", 1)[-1].removesuffix(".json")


def _read(store: Store, entry: Entry) -> Promotion:
    record: Promotion = store.read_once(entry, orjson.loads)
    return record
