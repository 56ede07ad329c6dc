"""Where rows went: for every stage that counts rows, how many were kept, held out, left over, rejected and failed.

A flow always adds up: total = kept + the segments. What a stage did not measure is absent, never zero.
"""

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.store.commit import Counts

ROW_KINDS = ("prepare", "augment", "validate", "train", "evaluate")  # other kinds count tensors or nothing
SegmentState = Literal["kept", "heldout", "unused", "rejected", "failed"]


@dataclass(frozen=True)
class Segment:
    """Some rows of a stage that went the same way; `reason` is a code such as `chinese`, or the state's own name."""

    state: SegmentState
    reason: str
    rows: int


@dataclass(frozen=True)
class Flow:
    """The rows of one stage, or of one source in it: `total` rows came, the segments say where they went."""

    name: str
    total: int
    segments: tuple[Segment, ...]

    @property
    def kept(self) -> int:
        """Rows that went on."""
        return sum(segment.rows for segment in self.segments if segment.state == "kept")


@dataclass(frozen=True)
class StageFlow:
    """A stage's flow, and the same by source where the stage measured it."""

    kind: str
    whole: Flow
    sources: tuple[Flow, ...] = ()


def stage_flow(name: str, kind: str, counts: Counts, measured: dict[str, Any]) -> StageFlow | None:
    """The flow of a finished stage; None for a kind that handles no rows."""
    sources: dict[str, dict[str, Any]] = measured.get("sources", {})
    if kind == "prepare" and sources:
        whole = _prepared(name, _summed(list(sources.values())))
        return StageFlow(kind, whole, tuple(_prepared(source, numbers) for source, numbers in sources.items()))
    if kind not in ROW_KINDS or not counts.planned:
        return None
    reasons = {**counts.rejected, **counts.failed}
    unused = 0
    if kind == "augment":  # it plans a sample: what it did not send stands in the flow as unused
        available = sum(measured.get("sample", {}).get("available", {}).values())
        unused = max(0, available - counts.planned)
    whole = _flow(name, counts.planned + unused, counts.ok, reasons, counts.failed, unused=unused)
    total, kept = {"validate": ("checked", "passed"), "augment": ("planned", "ok")}.get(kind, ("", ""))
    by_source = [
        _flow(
            source,
            numbers[total],
            numbers.get(kept, 0),
            {reason: rows for reason, rows in numbers.items() if reason not in (total, kept)},
            counts.failed,
        )
        for source, numbers in (sources.items() if total else ())
    ]
    return StageFlow(kind, whole, tuple(by_source))


def _flow(
    name: str,
    total: int,
    kept: int,
    reasons: dict[str, int],
    failed: Container[str] = (),
    heldout: int = 0,
    unused: int = 0,
) -> Flow:
    """A flow, its reasons by number, those in `failed` last; the kept segment stands even when nothing was kept."""
    ordered = sorted(reasons.items(), key=lambda item: (item[0] in failed, -item[1], item[0]))
    segments = [
        Segment("kept", "kept", kept),
        Segment("heldout", "heldout", heldout),
        Segment("unused", "not_sampled", unused),
        *(Segment("failed" if reason in failed else "rejected", reason, rows) for reason, rows in ordered),
    ]
    return Flow(name, total, tuple(one for one in segments if one.rows or one.state == "kept"))


def _prepared(name: str, numbers: dict[str, Any]) -> Flow:
    """A prepare stage, or a source of it: read = sampled + heldout + not_sampled + duplicates + rejected."""
    reasons = {"duplicate": numbers["duplicates"], **numbers["rejected"]}
    aside = {"heldout": numbers["heldout"], "unused": numbers["not_sampled"]}
    return _flow(name, numbers["read"], numbers["sampled"], reasons, **aside)


def _summed(sources: list[dict[str, Any]]) -> dict[str, Any]:
    names = ("read", "sampled", "heldout", "not_sampled", "duplicates")
    rejected: Counter[str] = Counter()
    for numbers in sources:
        rejected.update(numbers["rejected"])
    return {**{name: sum(numbers[name] for numbers in sources) for name in names}, "rejected": dict(rejected)}
