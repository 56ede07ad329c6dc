"""Validated rows and their measurements as text for people: a table per source, and samples spread over the set."""

from collections.abc import Iterator
from typing import Any

import orjson

from pipeline.store.commit import Manifest
from pipeline.store.objects import Store
from pipeline.store.shards import Part, checked, lines_of
from pipeline.teacher.settings import ValidateSettings

SHORT_CHARACTERS = 400


def summary(settings: ValidateSettings, manifest: Manifest) -> str:
    """Counts by source and reason, the rates that limits speak of, and the verdict."""
    measured = manifest.measurements
    total = measured["checked"]
    lines = [f"{'source':<28}{'checked':>10}{'passed':>10}{'share':>8}  rejected"]
    for source, numbers in measured["sources"].items():
        reasons = {name: n for name, n in numbers.items() if name not in ("checked", "passed")}
        words = ", ".join(f"{name} {n:,}" for name, n in sorted(reasons.items(), key=lambda item: -item[1]))
        share = numbers["passed"] / numbers["checked"]
        lines.append(f"{source:<28.28}{numbers['checked']:>10,}{numbers['passed']:>10,}{share:>8.1%}  {words}")
    rates = ", ".join(f"{name} {count / total:.1%}" for name, count in measured["counts"].items()) if total else ""
    verdict = settings.refusals(measured)
    lines += [f"{total:,} rows: {rates}", *(f"refused: {sentence}" for sentence in verdict or ())]
    return "\n".join(lines)


def samples(store: Store, manifest: Manifest, count: int, full: bool) -> Iterator[str]:
    """`count` rows spread evenly over what passed, then a few that did not, each as a block of text.

    Only the parts that hold a sample are read. `full` shows rows whole, else the first characters of each turn.
    """
    for place, row in _spread(store, manifest.outputs.get("rows", []), count):
        turns = "\n".join(f"[{turn['role']}] {_cut(turn['content'], full)}" for turn in row["messages"])
        yield f"--- sample {place + 1}  {row['source']}  {row.get('origin', '')}\n{turns}"
    for _, reject in _spread(store, manifest.outputs.get("rejects", []), max(1, count // 4) if count else 0):
        yield f"--- rejected ({reject['reason']}: {reject['detail']})  {reject['origin']}\n{_cut(reject['line'], full)}"


def _spread(store: Store, parts: list[Part], count: int) -> Iterator[tuple[int, dict[str, Any]]]:
    total = sum(part.rows for part in parts)
    wanted = sorted({place * total // count for place in range(min(count, total))}) if count else []
    start = 0
    for part in parts:
        mine = {index - start for index in wanted if start <= index < start + part.rows}
        if mine:
            for number, line in enumerate(lines_of(checked(store.read(part.key), part), part.key)):
                if number in mine:
                    yield wanted.index(start + number), orjson.loads(line)
        start += part.rows


def _cut(text: str, full: bool) -> str:
    return (
        text if full or len(text) <= SHORT_CHARACTERS else f"{text[:SHORT_CHARACTERS]} ... ({len(text):,} characters)"
    )
