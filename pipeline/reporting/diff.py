"""What changed between two sets of rows: settings, what they read, rows that left, came and changed, with examples.

A plain document (JSON values), the one source of both the terminal's tables and `--json`.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from pipeline.errors import UserError
from pipeline.recipe import models
from pipeline.recipe.fields import resolved
from pipeline.recipe.references import StageReference, references_in
from pipeline.reporting.changes import Changes, Gone, RowSet, compare
from pipeline.reporting.raw import origin_file
from pipeline.reporting.rows import ROW_TYPES, OutputRows, output_rows
from pipeline.store.objects import Store
from pipeline.store.pins import identity
from pipeline.store.runs import RunLock, find_run
from pipeline.store.status import require_done

Document = dict[str, Any]
LONGEST = 240  # characters of an example's text
LEAD = 60  # of them before the first difference


@dataclass(frozen=True)
class Side:
    """A finished stage of a run that holds rows."""

    lock: RunLock
    stage: str

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the stage."""
        return self.lock.stages[self.stage].fingerprint

    @property
    def source(self) -> list[Any]:
        """What the stage's rows come from."""
        found = references_in(self.lock.settings(self.stage))
        return [reference for path, reference, _ in found if path[0] == "source"]


def diff_of(store: Store, word_a: str, word_b: str, stage: str | None = None, examples: int = 3) -> Document:
    """The difference of two sets, each `RUN` or `RUN:STAGE`: {a, b, settings, reads, rows, left, came, changed}.

    Without a stage it is the first with rows that both runs have and that differs. Raises UserError for what is not
    done or holds no rows.
    """
    a, b = _sides(store, word_a, word_b, stage)
    document: Document = {
        "a": _described(store, a),
        "b": _described(store, b),
        "settings": _settings(a, b),
        "reads": _reads(a, b),
    }
    if a.fingerprint == b.fingerprint:
        rows = output_rows(store, a.lock, a.stage)
        return {**document, **_found(Changes(rows.total, {}, [], Gone(), Gone()), rows, rows)}
    sets = _row_set(store, a, b), _row_set(store, b, a)
    with tempfile.TemporaryDirectory(prefix="hanforge-diff-", dir=os.environ.get("HANFORGE_SCRATCH")) as folder:
        found = compare(*sets, Path(folder), examples)
    return {**document, **_found(found, sets[0].rows, sets[1].rows)}


def _sides(store: Store, word_a: str, word_b: str, stage: str | None) -> tuple[Side, Side]:
    (lock_a, stage_a), (lock_b, stage_b) = _place(store, word_a), _place(store, word_b)
    stage_a, stage_b = stage_a or stage or stage_b, stage_b or stage or stage_a
    if not stage_a or not stage_b:
        common = [name for name in models.order(lock_a.recipe) if name in lock_b.stages and _holds_rows(lock_a, name)]
        if not common:
            raise UserError(
                f"runs {lock_a.run_id} and {lock_b.run_id} have no stage with rows in common", "Say RUN:STAGE for each"
            )
        other = [name for name in common if lock_a.stages[name].fingerprint != lock_b.stages[name].fingerprint]
        stage_a = stage_b = (other or common)[0]
    for lock, name in ((lock_a, stage_a), (lock_b, stage_b)):
        if not _holds_rows(lock, name):
            raise UserError(f"stage {name!r} ({lock.stages[name].kind}) makes no set of rows", "Name one that does")
        require_done(store, lock, name)
    return Side(lock_a, stage_a), Side(lock_b, stage_b)


def _place(store: Store, word: str) -> tuple[RunLock, str]:
    run, colon, stage = word.rpartition(":")
    return find_run(store, run if colon else word), stage if colon else ""


def _holds_rows(lock: RunLock, stage: str) -> bool:
    return next(iter(type(lock.settings(stage)).OUTPUTS.values())) == "rows"


def _described(store: Store, side: Side) -> Document:
    return {
        "run": side.lock.run_id,
        "stage": side.stage,
        "kind": side.lock.stages[side.stage].kind,
        "fingerprint": side.fingerprint,
        "rows": output_rows(store, side.lock, side.stage).total,
    }


def _settings(a: Side, b: Side) -> list[Document]:
    """Settings that differ, flat, operational ones left out. Example: [{"setting": "seed", "a": 42, "b": 43}]"""
    one, two = (resolved(side.lock.settings(side.stage), with_operational=False) for side in (a, b))
    return _differing(one, two)


def _differing(a: Document, b: Document, prefix: str = "") -> list[Document]:
    out: list[Document] = []
    for key in dict.fromkeys([*a, *b]):
        one, two = a.get(key), b.get(key)
        if isinstance(one, dict) and isinstance(two, dict):
            out += _differing(one, two, f"{prefix}{key}.")
        elif one != two:
            out.append({"setting": f"{prefix}{key}", "a": one, "b": two})
    return out


def _reads(a: Side, b: Side) -> list[Document]:
    """What both read under one setting and is not the same thing: its identities, and input files that differ."""
    found_a, found_b = (
        {".".join(path): reference for path, reference, _ in references_in(side.lock.settings(side.stage))}
        for side in (a, b)
    )
    out: list[Document] = []
    for setting in found_a.keys() & found_b.keys():
        one, two = identity(a.lock, found_a[setting]), identity(b.lock, found_b[setting])
        if one != two:
            out.append({"setting": setting, "a": one, "b": two, "files": _files(a.lock, b.lock)})
    return sorted(out, key=lambda entry: entry["setting"])


def _files(a: RunLock, b: RunLock) -> list[str]:
    """Names of input files that one run lacks or has with other bytes."""
    tags_a, tags_b = (
        {file.name: file.tag for source in lock.inputs.values() for file in source.files} for lock in (a, b)
    )
    return sorted(name for name in tags_a.keys() | tags_b.keys() if tags_a.get(name) != tags_b.get(name))


def _row_set(store: Store, side: Side, other: Side) -> RowSet:
    """A side with what explains the other side's rows that it lacks."""

    def rows(stage: str, output: str | None = None) -> OutputRows:
        return output_rows(store, side.lock, stage, output)

    outputs = type(side.lock.settings(side.stage)).OUTPUTS
    explained = [("" if kind == "rejects" else name, rows(side.stage, name)) for name, kind in outputs.items()
                 if kind in ROW_TYPES and kind != "rows"]  # fmt: skip
    above = [reference for reference in side.source if isinstance(reference, StageReference)]
    own = {identity(side.lock, reference) for reference in side.source}
    if not above:
        return RowSet(rows(side.stage), tuple(explained), lambda file: _absence(side.lock, other.lock, file))
    if own == {identity(other.lock, reference) for reference in other.source}:
        return RowSet(rows(side.stage), tuple(explained))
    explained += [("not_sampled", rows(reference.stage, reference.output)) for reference in above]
    return RowSet(rows(side.stage), tuple(explained), lambda _: "not_in_source")


def _absence(lock: RunLock, other: RunLock, file: str) -> str:
    """Why a row of an input file is not in `lock`'s set although nothing rejected it."""
    mine, theirs = origin_file(lock, file), origin_file(other, file)
    if mine is None:
        return "file_absent"
    return "not_sampled" if theirs is not None and mine.tag == theirs.tag else "file_changed"


def _found(found: Changes, rows_a: OutputRows, rows_b: OutputRows) -> Document:
    left, came = _gone(found.left, rows_a), _gone(found.came, rows_b)
    places_a, places_b = ([pair[side] for pair in found.changed_examples] for side in (0, 1))
    pairs = zip(_at(rows_a, places_a), _at(rows_b, places_b), strict=True)
    return {
        "rows": {
            "a": rows_a.total,
            "b": rows_b.total,
            "same": found.same,
            "changed": sum(found.changed.values()),
            "left": sum(left["reasons"].values()),
            "came": sum(came["reasons"].values()),
        },
        "left": left,
        "came": came,
        "changed": {
            "sources": dict(sorted(found.changed.items())),
            "examples": [_changed_example(a, b) for a, b in pairs],
        },
    }


def _gone(gone: Gone, rows: OutputRows) -> Document:
    """{reasons: {chinese: 3}, sources: {kowiki: {chinese: 3}}, examples: [{reason, id, source, origin, question}]}"""
    reasons: dict[str, int] = {}
    sources: dict[str, dict[str, int]] = {}
    for (source, reason), count in sorted(gone.counts.items(), key=lambda item: -item[1]):
        reasons[reason] = reasons.get(reason, 0) + count
        sources.setdefault(source, {})[reason] = count
    named = [(reason, place) for reason in reasons for place in gone.examples[reason]]
    shown = zip(named, _at(rows, [place for _, place in named]), strict=True)
    examples = [{"reason": reason, **_example(row)} for (reason, _), row in shown]
    return {
        "reasons": dict(sorted(reasons.items(), key=lambda item: -item[1])),
        "sources": sources,
        "examples": examples,
    }


def _at(rows: OutputRows, places: list[int]) -> list[Document]:
    """The rows at these places, in the order asked for."""
    ordered = sorted(set(places))
    found = dict(zip(ordered, map(orjson.loads, rows.at(ordered)), strict=True))
    return [found[place] for place in places]


def _example(row: Document) -> Document:
    asked = [turn["content"] for turn in row.get("messages", ()) if turn.get("role") == "user"]
    return {
        **{key: row.get(key) for key in ("id", "source", "origin")},
        "question": _excerpt(asked[0] if asked else ""),
    }


def _changed_example(a: Document, b: Document) -> Document:
    """The first turn that differs, from shortly before the first difference; null where a side has no such turn."""
    turns_a, turns_b = a.get("messages", []), b.get("messages", [])
    common = min(len(turns_a), len(turns_b))
    at = next((n for n in range(common) if turns_a[n] != turns_b[n]), common)
    one, two = (turns[at] if at < len(turns) else None for turns in (turns_a, turns_b))
    texts = ["" if turn is None else str(turn.get("content")) for turn in (one, two)]
    shorter = min(len(text) for text in texts)
    start = max(0, next((n for n in range(shorter) if texts[0][n] != texts[1][n]), shorter) - LEAD)
    return {
        **{key: b.get(key) for key in ("id", "source", "origin")},
        "turn": at,
        "a": one and {"role": one.get("role"), "text": _excerpt(texts[0], start)},
        "b": two and {"role": two.get("role"), "text": _excerpt(texts[1], start)},
    }


def _excerpt(text: str, start: int = 0) -> str:
    """Example: a text of 1,000 characters from 100 on -> "… <240 characters> …" """
    cut = text[start : start + LONGEST]
    return f"{'… ' if start else ''}{cut}{' …' if start + LONGEST < len(text) else ''}"
