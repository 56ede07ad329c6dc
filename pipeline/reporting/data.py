"""What the report tells about a stage's rows beside their funnel; of a running stage, those committed so far."""

from dataclasses import dataclass
from typing import Any

from pipeline.reporting.examples import Example, prepared
from pipeline.reporting.lengths import Lengths, lengths
from pipeline.reporting.rejections import rejections
from pipeline.reporting.rows import Committed
from pipeline.store.objects import Store
from pipeline.store.runs import RunLock
from pipeline.teacher.settings import AugmentSettings

KINDS = ("prepare", "augment", "validate")
SAMPLE_ROWS, SAMPLE_PARTS = 2000, 64  # what a look at a set of any size costs
PREPARED = 5  # rows shown before and after preparation; more where nothing is augmented
PREPARED_ALONE = 20
LATENCIES = (0.5, 0.9, 0.99)  # quantiles
CHECKS = ("tagged", "stepped", "chinese")


@dataclass(frozen=True)
class StageData:
    """A stage's rows: lengths of the kept, reasons and examples of the refused, origins, what a teacher cost."""

    lengths: Lengths | None
    rejections: list[Example]
    duplicates: list[dict[str, Any]]
    teaching: dict[str, Any] | None
    prepared: list[Example]

    def plain(self) -> dict[str, Any]:
        """As JSON values, without sampled texts."""
        return {
            "lengths": self.lengths.plain() if self.lengths else None,
            "rejections": {rejection["reason"]: rejection["rows"] for rejection in self.rejections},
            "duplicates": self.duplicates,
            "teacher": self.teaching,
        }


def stage_data(store: Store, lock: RunLock, name: str, found: Committed | None, seed: int) -> StageData | None:
    """The data page of a stage; None for other kinds and where nothing is committed yet."""
    settings = lock.settings(name)
    if settings.kind not in KINDS or found is None:
        return None
    rows, measured, counts = found.rows(store, "rows"), found.measurements, found.counts
    sample = rows.spread(SAMPLE_PARTS).sample(SAMPLE_ROWS, seed)
    alone = all(stage.kind != "augment" for stage in lock.stages.values())
    is_first = settings.kind == "prepare"
    return StageData(
        lengths=lengths(store, lock, name, sample, rows.total),
        rejections=rejections(found.rows(store, "rejects"), {**counts.rejected, **counts.failed}, seed),
        duplicates=_duplicates(measured) if is_first else [],
        teaching=teaching(settings.teacher.name(), measured) if isinstance(settings, AugmentSettings) else None,
        prepared=prepared(lock, sample, PREPARED_ALONE if alone else PREPARED) if is_first else [],
    )


def _duplicates(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Sources with rows that stood somewhere before them, most first."""
    found = [
        {"source": name, "rows": numbers["duplicates"], "read": numbers["read"]}
        for name, numbers in measured.get("sources", {}).items()
        if numbers["duplicates"]
    ]
    return sorted(found, key=lambda one: (-one["rows"], one["source"]))


def teaching(teacher: str, measured: dict[str, Any]) -> dict[str, Any] | None:
    """What a teacher cost and how it answered, from an augment stage's measurements; None when it measured no quality.

    `checks` are (name, answers, of so many). Tokens of answers found in the cache count as well: the set cost them.
    """
    quality = measured.get("quality")
    if not quality or not quality["outcomes"]:
        return None
    answers = quality["answers"]
    counts = ("outcomes", "answers", "failed", "retries", "prompt_tokens", "completion_tokens", "characters")
    return {
        "teacher": teacher,
        **{name: quality[name] for name in counts},
        "seconds": _latencies(quality["seconds"]),
        "checks": [(name, quality[name], answers) for name in CHECKS if answers],
    }


def _latencies(bins: dict[str, int]) -> dict[float, float]:
    """From answers by upper edge in seconds: by share, the edge that so many of the timed answers do not exceed.

    Example: {"0": 5, "1": 90, "2": 10} -> {0.5: 1.0, 0.9: 1.0, 0.99: 2.0}
    """
    timed = sorted((float(edge), count) for edge, count in bins.items() if float(edge) > 0)
    total = sum(count for _, count in timed)
    out: dict[float, float] = {}
    seen = 0
    for edge, count in timed:
        seen += count
        out |= {share: edge for share in LATENCIES if share not in out and seen >= share * total}
    return out
