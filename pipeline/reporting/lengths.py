"""How long a set's rows are, in characters and in the student's tokens, against what its trainings take."""

from dataclasses import dataclass
from typing import Any

from pipeline.recipe.references import StageReference, references_in
from pipeline.reporting.base_model import root_of
from pipeline.reporting.histogram import Histogram, histogram, quantile
from pipeline.reporting.rows import OutputRows, Row
from pipeline.reporting.tokenizer import token_counter
from pipeline.store.objects import Store
from pipeline.store.runs import RunLock, reference_key
from pipeline.training.settings import TrainSettings

SAMPLE_ROWS = 2000
MOST_PARTS = 64  # that a sample is drawn from


@dataclass(frozen=True)
class Limit:
    """What a training does with long rows; `over` is the sampled share beyond it, None where no tokens were counted."""

    stage: str
    max_length: int
    over: float | None


@dataclass(frozen=True)
class SourceLengths:
    """One source's share of the sample: median and 95th percentile; tokens are None where none were counted."""

    source: str
    rows: int
    characters: tuple[int, int]
    tokens: tuple[int, int] | None


@dataclass(frozen=True)
class Lengths:
    """Lengths of `sampled` of `total` rows: all turns of a row together. `tokenizer` names the model whose it is."""

    sampled: int
    total: int
    characters: Histogram
    tokens: Histogram | None
    tokenizer: str
    limits: tuple[Limit, ...]
    sources: tuple[SourceLengths, ...]

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "sampled": self.sampled,
            "rows": self.total,
            "characters": self.characters.plain(),
            "tokens": self.tokens.plain() if self.tokens else None,
            "tokenizer": self.tokenizer,
            "limits": {limit.stage: {"max_length": limit.max_length, "over": limit.over} for limit in self.limits},
        }


def drawn(rows: OutputRows, seed: int) -> list[Row]:
    """At most 2,000 rows of at most 64 parts: what a look at a set of any size costs."""
    return rows.spread(MOST_PARTS).sample(SAMPLE_ROWS, seed)


def lengths(store: Store, lock: RunLock, stage: str, sample: list[Row], total: int) -> Lengths | None:
    """The lengths of sampled rows of a set of `total`; None of an empty sample."""
    texts = [_contents(row) for row in sample]
    characters = [sum(map(len, contents)) for contents in texts]
    whole = histogram(characters)
    if whole is None:
        return None
    trainings = readers(lock, stage)
    tokens, tokenizer = _tokens(store, lock, trainings, texts)
    limits = tuple(
        Limit(name, settings.max_length, _share_over(tokens, settings.max_length)) for name, settings in trainings
    )
    counted = histogram(tokens) if tokens is not None else None
    return Lengths(len(sample), total, whole, counted, tokenizer, limits, _by_source(sample, characters, tokens))


def readers(lock: RunLock, stage: str) -> list[tuple[str, TrainSettings]]:
    """The trainings that read a set: itself, or its rows as a validation passed them on."""
    found: list[tuple[str, TrainSettings]] = []
    for name, settings in lock.recipe.stages.items():
        for path, reference, _ in references_in(settings):
            if not isinstance(reference, StageReference) or reference.stage != stage or reference.output is not None:
                continue
            if isinstance(settings, TrainSettings) and path[0] == "data":
                found.append((name, settings))
            elif settings.kind == "validate":
                found.extend(readers(lock, name))
    return found


def _contents(row: Row) -> list[str]:
    contents = [turn.get("content") for turn in row.get("messages", ())]
    return [content for content in contents if isinstance(content, str)]


def _tokens(
    store: Store, lock: RunLock, trainings: list[tuple[str, TrainSettings]], texts: list[list[str]]
) -> tuple[list[int] | None, str]:
    """Tokens of each row by the first training's tokenizer, and the model's name; None where it has none here."""
    if not trainings:
        return None, ""
    root = root_of(lock, trainings[0][1].base)
    name = reference_key(root).removeprefix("input:")
    count = token_counter(store, lock, root)
    if count is None:
        return None, name
    flat = iter(count([content for contents in texts for content in contents]))
    return [sum(next(flat) for _ in contents) for contents in texts], name


def _share_over(tokens: list[int] | None, limit: int) -> float | None:
    return sum(number > limit for number in tokens) / len(tokens) if tokens else None


def _by_source(sample: list[Row], characters: list[int], tokens: list[int] | None) -> tuple[SourceLengths, ...]:
    places: dict[str, list[int]] = {}
    for place, row in enumerate(sample):
        places.setdefault(str(row.get("source") or ""), []).append(place)

    def both(values: list[int], chosen: list[int]) -> tuple[int, int]:
        picked = [values[place] for place in chosen]
        return quantile(picked, 0.5), quantile(picked, 0.95)

    ordered = sorted(places.items(), key=lambda item: (-len(item[1]), item[0]))
    return tuple(
        SourceLengths(name, len(chosen), both(characters, chosen), both(tokens, chosen) if tokens else None)
        for name, chosen in ordered
    )
