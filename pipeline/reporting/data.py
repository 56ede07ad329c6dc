"""What the report tells about a stage's rows beside their funnel; of a running stage, those committed so far."""

from dataclasses import asdict, dataclass
from typing import Any

from pipeline.reporting.lengths import Lengths, drawn, lengths
from pipeline.reporting.pairs import Prepared, prepared
from pipeline.reporting.rejections import Rejection, rejections
from pipeline.reporting.rows import output_rows
from pipeline.reporting.teaching import Teaching, teaching
from pipeline.store.commit import Counts, Manifest
from pipeline.store.objects import Store
from pipeline.store.runs import RunLock
from pipeline.teacher.settings import AugmentSettings

KINDS = ("prepare", "augment", "validate")
PREPARED = 5  # rows shown before and after preparation; more where nothing is augmented
PREPARED_ALONE = 20


@dataclass(frozen=True)
class Duplicates:
    """A source's rows that stood somewhere before them."""

    source: str
    rows: int
    read: int


@dataclass(frozen=True)
class StageData:
    """A stage's rows: lengths of the kept, reasons and examples of the refused, origins, what a teacher cost."""

    lengths: Lengths | None
    rejections: tuple[Rejection, ...]
    duplicates: tuple[Duplicates, ...]
    teaching: Teaching | None
    prepared: tuple[Prepared, ...]

    def plain(self) -> dict[str, Any]:
        """As JSON values, without sampled texts."""
        return {
            "lengths": self.lengths.plain() if self.lengths else None,
            "rejections": {rejection.reason: rejection.rows for rejection in self.rejections},
            "duplicates": [asdict(one) for one in self.duplicates],
            "teacher": self.teaching.plain() if self.teaching else None,
        }


def stage_data(store: Store, lock: RunLock, name: str, manifest: Manifest | None, seed: int) -> StageData | None:
    """The data page of a stage; None for other kinds and where nothing is committed yet."""
    settings = lock.settings(name)
    if settings.kind not in KINDS:
        return None
    counts = manifest.counts if manifest else _counts_so_far(store, lock, name)
    if counts is None:
        return None
    rows = output_rows(store, lock, name)
    sample = drawn(rows, seed)
    measured = manifest.measurements if manifest else {}
    teacher = settings.teacher.name() if isinstance(settings, AugmentSettings) else ""
    return StageData(
        lengths=lengths(store, lock, name, sample, rows.total),
        rejections=rejections(output_rows(store, lock, name, "rejects"), {**counts.rejected, **counts.failed}, seed),
        duplicates=_duplicates(measured) if settings.kind == "prepare" else (),
        teaching=teaching(teacher, measured) if teacher else None,
        prepared=tuple(prepared(lock, sample, _prepared_count(lock))) if settings.kind == "prepare" else (),
    )


def _counts_so_far(store: Store, lock: RunLock, name: str) -> Counts | None:
    done = lock.directory(store, name).done()
    return sum((unit.counts for unit in done.values()), Counts()) if done else None


def _duplicates(measured: dict[str, Any]) -> tuple[Duplicates, ...]:
    """Sources with duplicates, most first."""
    sources = measured.get("sources", {}).items()
    found = [Duplicates(name, numbers["duplicates"], numbers["read"]) for name, numbers in sources]
    return tuple(sorted((one for one in found if one.rows), key=lambda one: (-one.rows, one.source)))


def _prepared_count(lock: RunLock) -> int:
    return PREPARED if any(stage.kind == "augment" for stage in lock.stages.values()) else PREPARED_ALONE
