"""Rows of a stage's output for people to look at: a seeded sample, and counts by source and file.

Reads what a manifest names, or the committed units of a stage that is not done yet. Never goes through a gate: what a
gate refused is exactly what people want to see.
"""

import base64
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from pipeline.errors import UserError
from pipeline.recipe import models
from pipeline.store.commit import Counts, StageDirectory
from pipeline.store.objects import Store
from pipeline.store.runs import RunLock
from pipeline.store.shards import Part, part_lines
from pipeline.store.status import why_not_done

ROW_TYPES = ("rows", "rejects", "heldout", "predictions")
Row = dict[str, Any]


@dataclass(frozen=True)
class OutputRows:
    """The parts of one rows-like output; `whole` is False while the stage is not done."""

    store: Store
    parts: tuple[Part, ...]
    whole: bool

    @property
    def total(self) -> int:
        """How many rows there are."""
        return sum(part.rows for part in self.parts)

    def lines(self) -> Iterator[bytes]:
        """Every line, in the manifest's order."""
        for part in self.parts:
            yield from part_lines(self.store, part)

    def spread(self, most: int) -> "OutputRows":
        """The rows of at most `most` parts, evenly chosen: a look at a set of any size reads no more."""
        stride = max(1, -(-len(self.parts) // most))
        return OutputRows(self.store, self.parts[stride // 2 :: stride], self.whole)

    def sample(self, count: int, seed: int) -> list[Row]:
        """`count` rows chosen by `seed`, in order; all of them when there are fewer. Reads only the parts it needs."""
        chosen = sorted(random.Random(seed).sample(range(self.total), min(count, self.total)))
        return [orjson.loads(line) for line in self.at(chosen)]

    def at(self, places: Sequence[int]) -> Iterator[bytes]:
        """The lines at these places (from 0, ascending). Reads only the parts it needs."""
        start = 0
        for part in self.parts:
            wanted = {place - start for place in places if start <= place < start + part.rows}
            if wanted:
                yield from (line for place, line in enumerate(part_lines(self.store, part)) if place in wanted)
            start += part.rows


@dataclass(frozen=True)
class Committed:
    """What a stage has committed: all of it, or while it runs the units so far (`whole` is False, nothing measured)."""

    outputs: dict[str, list[Part]]
    counts: Counts
    measurements: dict[str, Any]
    whole: bool

    def rows(self, store: Store, output: str) -> OutputRows:
        """The rows of an output."""
        return OutputRows(store, tuple(self.outputs.get(output, ())), self.whole)


def committed(directory: StageDirectory) -> Committed | None:
    """What lies in a stage's folder, each object read once; None while nothing is committed."""
    manifest = directory.manifest()
    if manifest is not None:
        return Committed(manifest.outputs, manifest.counts, manifest.measurements, True)
    units = [unit for _, unit in sorted(directory.done().items())]
    outputs: dict[str, list[Part]] = {}
    for unit in units:
        for name, parts in unit.outputs.items():
            outputs.setdefault(name, []).extend(parts)
    return Committed(outputs, sum((unit.counts for unit in units), Counts()), {}, False) if units else None


def output_rows(store: Store, lock: RunLock, stage: str, output: str | None = None) -> OutputRows:
    """The rows of a stage's output, by default its first that holds rows; of a stage that runs, those committed so far.

    Raises UserError for an unknown stage or output, for one that holds no rows, and when nothing is committed yet.
    """
    settings = lock.settings(stage)
    outputs = type(settings).OUTPUTS
    fitting = [name for name, kind in outputs.items() if kind in ROW_TYPES]
    if not fitting:
        raise UserError(f"stage {stage!r} ({settings.kind}) writes no rows; it gives {', '.join(outputs)}")
    name = output or fitting[0]
    if name not in fitting:
        raise UserError(f"stage {stage!r} has no rows under {name!r}; {models.nearest(name, fitting)}", "Use --output")
    found = committed(lock.directory(store, stage))
    if found is None:
        raise lacking(store, lock, stage, "rows yet")
    return found.rows(store, name)


def lacking(store: Store, lock: RunLock, stage: str, what: str) -> UserError:
    """What to say of a stage that has not made `what` yet: why, and the command that makes it."""
    return UserError(
        f"stage {stage!r} of run {lock.run_id} has no {what}: {why_not_done(store, lock, stage)}",
        f"Run it: hanforge run {lock.recipe.name} --only {stage}",
    )


def rejected_line(row: Row) -> str:
    """The line that a row of rejects carries; bytes that are not UTF-8 as escapes. Example: "\\xff" """
    line = row.get("line") or ""
    if row.get("encoding") == "base64":
        return base64.b64decode(line).decode("utf-8", "backslashreplace")
    return str(line)


def split_origin(origin: object) -> tuple[str, int]:
    """File and line of an origin; line 0 when it names none. Example: "a/b.jsonl:17" -> ("a/b.jsonl", 17)."""
    name, _, line = str(origin or "").rpartition(":")
    return (name, int(line)) if name and line.isdigit() else (str(origin or ""), 0)


def count_rows(rows: OutputRows) -> dict[str, dict[str, int]]:
    """Rows by source and, in it, by file of origin: {"kowiki": {"kowiki.jsonl": 120}}."""
    counts: Counter[tuple[str, str]] = Counter()
    for line in rows.lines():
        row = orjson.loads(line)
        counts[str(row.get("source") or ""), split_origin(row.get("origin"))[0]] += 1
    out: dict[str, dict[str, int]] = {}
    for (source, file), count in sorted(counts.items()):
        out.setdefault(source, {})[file] = count
    return out
