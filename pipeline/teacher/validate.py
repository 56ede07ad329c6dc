"""validate: every row of reasoning data through the checks; what passes is the validated set, the rest goes to rejects.

The stage stores measurements and never a verdict: whether the set as a whole is good enough is computed from them, with
the reader's own limits, whenever somebody runs the stage or reads its output.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import orjson

from pipeline.errors import UserError
from pipeline.store.commit import Counts
from pipeline.store.division import undone
from pipeline.store.stage import Stage
from pipeline.teacher.checks import Finding, check_row
from pipeline.teacher.reading import Piece, Row, pieces, read_row, reject_line
from pipeline.teacher.settings import ValidateSettings

UNIT_ROWS = 16384
FACTS = ("tagged", "chinese", "stepped", "answered", "looping", "truncated")


@dataclass
class Measured:
    """What is measured over rows. Adds up over units: nothing here is a mean or a share."""

    checked: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    answer_characters: Counter[str] = field(default_factory=Counter)
    reasoning_characters: Counter[str] = field(default_factory=Counter)
    sources: dict[str, Counter[str]] = field(default_factory=dict)

    def note(self, source: str, reason: str, finding: Finding | None) -> None:
        """Count one row; `finding` is None for a line that is no conversation."""
        self.checked += 1
        by_source = self.sources.setdefault(source, Counter())
        by_source["checked"] += 1
        if reason:
            self.reasons[reason] += 1
            by_source[reason] += 1
        else:
            self.counts["passed"] += 1
            by_source["passed"] += 1
        if finding is not None:
            self.counts.update(name for name in FACTS if getattr(finding, name))
            self.steps[str(finding.steps)] += 1
            self.answer_characters[_bin(finding.answer_characters)] += 1
            self.reasoning_characters[_bin(finding.reasoning_characters)] += 1

    def add(self, plain: dict[str, Any]) -> None:
        """Add what another unit measured."""
        self.checked += plain["checked"]
        for name in ("counts", "reasons", "steps", "answer_characters", "reasoning_characters"):
            getattr(self, name).update(plain[name])
        for source, numbers in plain["sources"].items():
            self.sources.setdefault(source, Counter()).update(numbers)

    def plain(self) -> dict[str, Any]:
        """As JSON values; every count of `FACTS` and every source's `passed` are there, 0 included."""
        return {
            "checked": self.checked,
            "counts": {name: self.counts[name] for name in ("passed", *FACTS)},
            "reasons": dict(self.reasons),
            "steps": dict(self.steps),
            "answer_characters": dict(self.answer_characters),
            "reasoning_characters": dict(self.reasoning_characters),
            "sources": {name: {"passed": 0, **counter} for name, counter in sorted(self.sources.items())},
        }


def run(stage: Stage) -> None:
    """Check every row, unit by unit, and commit the manifest with the measurements of all."""
    settings: ValidateSettings = stage.settings
    source = pieces(stage.pinned_rows(settings.source))
    plan = stage.directory.plan(lambda: {"units": _grouped(source)})
    rows = sum(piece.rows or 0 for piece in source) or None
    by_name = {unit["name"]: unit for unit in plan["units"]}
    names = list(by_name)
    for name in undone(stage, names):
        first = by_name[name]["first"]
        _check_unit(stage, name, source[first : first + by_name[name]["pieces"]], rows)
    done = stage.directory.done()
    measured = Measured()
    for name in names:
        measured.add(done[name].measurements)
    _refuse_nothing(stage, measured)
    stage.directory.commit_manifest(names, measured.plain())


def judge(row: Row, settings: ValidateSettings) -> tuple[str, str, Finding | None]:
    """A row's reason ("" when it passes), its detail, and what was measured on it."""
    if row.reason:
        return row.reason, row.detail, None
    finding = check_row(row, settings.checks)
    return finding.reason, finding.detail, finding


def _check_unit(stage: Stage, name: str, unit: list[Piece], total: int | None) -> None:
    settings: ValidateSettings = stage.settings
    measured = Measured()
    directory = stage.directory
    with (
        directory.write_rows(name, "rows", settings.compression) as rows,
        directory.write_rows(name, "rejects", settings.compression) as rejects,
    ):
        for piece in unit:
            for number, line in piece.lines():
                row = read_row(piece, number, line)
                reason, detail, finding = judge(row, settings)
                measured.note(row.source, reason, finding)
                if reason:
                    rejects.write(reject_line(row, reason, detail))
                else:
                    rows.write(_complete(row))
                if measured.checked % 256 == 0:
                    stage.stop.raise_if_requested()
                    stage.progress.update(done=measured.checked, total=total, counts=dict(measured.counts))
    counts = Counts(measured.checked, rows.rows, dict(sorted(measured.reasons.items())))
    parts = {"rows": [rows.committed()], "rejects": [rejects.committed()]}
    directory.commit_unit(name, parts, counts, measured.plain())


def _complete(row: Row) -> bytes:
    """The line as it is; with source, id and origin added when it came from a file that lacks them."""
    named = {"source": row.source, "id": row.id, "origin": row.origin}
    return row.line if named.keys() <= row.value.keys() else orjson.dumps({**row.value, **named})


def _grouped(source: list[Piece]) -> list[dict[str, Any]]:
    """Units of neighbouring pieces, up to UNIT_ROWS rows together; a piece of unknown size is a unit by itself."""
    units: list[dict[str, Any]] = []
    room = 0
    for position, piece in enumerate(source):
        if piece.rows is None or not units or room < piece.rows:
            units.append({"name": f"{len(units):05d}", "first": position, "pieces": 0})
            room = UNIT_ROWS if piece.rows is not None else 0
        units[-1]["pieces"] += 1
        room -= piece.rows or 0
    return units


def _refuse_nothing(stage: Stage, measured: Measured) -> None:
    if not measured.checked:
        raise UserError(f"stage {stage.name!r}: its source has no rows", "Check the stage or the files that it reads")
    if not measured.counts["passed"]:
        reasons = ", ".join(f"{reason} {count}" for reason, count in measured.reasons.most_common())
        raise UserError(
            f"stage {stage.name!r}: none of {measured.checked} rows passed: {reasons}",
            "Look at the augmented rows, or loosen the checks that refuse them",
        )


def _bin(characters: int) -> str:
    """The least power of two that is not under the length. Example: 100 -> "128"; 0 -> "0"."""
    return str(1 << (characters - 1).bit_length()) if characters > 0 else "0"
