"""How long a set's rows are, in characters and in the student's tokens, against what its trainings take."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import orjson

from pipeline.recipe.references import StageReference, references_in
from pipeline.reporting.rows import Row
from pipeline.store.objects import Store
from pipeline.store.pins import root_of, small_file
from pipeline.store.runs import RunLock, reference_key
from pipeline.training.settings import TrainSettings

MOST_BINS = 28
BATCH = 64  # texts that a tokenizer takes at once


@dataclass(frozen=True)
class Histogram:
    """Numbers of values by bin: of `fineness` n, bin k holds 2^((k-1)/n) < value <= 2^(k/n), the lowest 0 and 1."""

    bins: tuple[tuple[int, int], ...]
    fineness: int
    median: int
    percentile_95: int
    largest: int

    def edge(self, place: int) -> float:
        """The upper edge of a bin. Example: of fineness 2, 6 -> 8.0"""
        return float(2 ** (place / self.fineness))

    def plain(self) -> dict[str, Any]:
        """As JSON values; bins by their upper edges."""
        edges = {f"{self.edge(place):.6g}": count for place, count in self.bins}
        return {"up_to": edges, "median": self.median, "percentile_95": self.percentile_95, "largest": self.largest}


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


def lengths(store: Store, lock: RunLock, stage: str, sample: list[Row], total: int) -> Lengths | None:
    """The lengths of sampled rows of a set of `total`; None of an empty sample."""
    if not sample:
        return None
    texts = [[turn["content"] for turn in row.get("messages", ()) if _is_text(turn)] for row in sample]
    characters = [sum(map(len, contents)) for contents in texts]
    trainings = readers(lock, stage)
    tokens, tokenizer = _tokens(store, lock, trainings[0][1].base, texts) if trainings else (None, "")
    limits = tuple(
        Limit(name, settings.max_length, _share_over(tokens, settings.max_length)) for name, settings in trainings
    )
    counted = histogram(tokens) if tokens is not None else None
    sources = _by_source(sample, characters, tokens)
    return Lengths(len(sample), total, histogram(characters), counted, tokenizer, limits, sources)


def histogram(values: list[int]) -> Histogram:
    """The histogram of one length or more, in bins as fine as at most 28 of them allow."""
    places = [math.log2(max(1, value)) for value in values]
    span = max(places) - min(places)
    fineness = next((fine for fine in (8, 4) if span * fine <= MOST_BINS), 2)
    found = Counter(math.ceil(place * fineness - 1e-9) for place in places)
    bins = tuple((place, found[place]) for place in range(min(found), max(found) + 1))
    return Histogram(bins, fineness, quantile(values, 0.5), quantile(values, 0.95), max(values))


def quantile(values: list[int], share: float) -> int:
    """The least value that `share` of the values do not exceed. Example: ([1, 2, 3, 4], 0.5) -> 2"""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


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


def _is_text(turn: Row) -> bool:
    return isinstance(turn.get("content"), str)


def _tokens(store: Store, lock: RunLock, base: Any, texts: list[list[str]]) -> tuple[list[int] | None, str]:
    """Tokens of each row by the tokenizer of a training's base, and the model's name; None without tokenizer.json.

    Counts the texts alone, without the marks that the chat template adds (a few for each turn).
    """
    from tokenizers import Tokenizer

    root = root_of(lock, base)
    name = reference_key(root).removeprefix("input:")
    content = small_file(store, lock, root, "tokenizer.json")
    if content is None:
        return None, name
    whole = {**orjson.loads(content), "truncation": None, "padding": None}
    tokenizer = Tokenizer.from_str(orjson.dumps(whole).decode())
    flat = [content for contents in texts for content in contents]
    batches = (flat[start : start + BATCH] for start in range(0, len(flat), BATCH))
    counts = (len(one) for batch in batches for one in tokenizer.encode_batch_fast(batch, add_special_tokens=False))
    return [sum(next(counts) for _ in contents) for contents in texts], name


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
