"""Where rows went: for every stage that counts rows, how many were kept, held out, left over, rejected and failed.

A flow always adds up: total = kept + the segments. What a stage did not measure is absent, never zero.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipeline.store.commit import Counts, Manifest

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

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def stage_flow(name: str, kind: str, manifest: Manifest) -> StageFlow | None:
    """The flow of a finished stage; None for a kind that handles no rows."""
    measured = manifest.measurements
    if kind == "prepare" and "sources" in measured:
        sources = tuple(_prepared(source, numbers) for source, numbers in measured["sources"].items())
        return StageFlow(kind, _sum(name, sources), sources)
    if kind not in ROW_KINDS or not manifest.counts.planned:
        return None
    flow = _counted(name, manifest.counts)
    if kind == "validate" and "sources" in measured:
        return StageFlow(
            kind, flow, tuple(_checked(source, numbers) for source, numbers in measured["sources"].items())
        )
    if kind == "augment" and "sample" in measured:
        asked = measured.get("sources", {}).items()
        sources = tuple(_asked(source, numbers, manifest.counts) for source, numbers in asked)
        return StageFlow(kind, _sampled(flow, measured["sample"]), sources)
    return StageFlow(kind, flow)


def _prepared(source: str, numbers: dict[str, Any]) -> Flow:
    """One source of a prepare stage: read = sampled + heldout + not_sampled + duplicates + rejected."""
    rejected = {"duplicate": numbers["duplicates"], **numbers["rejected"]}
    segments = [
        Segment("kept", "kept", numbers["sampled"]),
        Segment("heldout", "heldout", numbers["heldout"]),
        Segment("unused", "not_sampled", numbers["not_sampled"]),
        *(Segment("rejected", reason, count) for reason, count in _descending(rejected)),
    ]
    return Flow(source, numbers["read"], _without_empty(segments))


def _checked(source: str, numbers: dict[str, int]) -> Flow:
    """One source of a validate stage: {"checked": 10, "passed": 8, "steps": 2}; checked = passed + reasons."""
    reasons = {reason: count for reason, count in numbers.items() if reason not in ("checked", "passed")}
    segments = [Segment("kept", "kept", numbers["passed"])]
    segments += [Segment("rejected", reason, count) for reason, count in _descending(reasons)]
    return Flow(source, numbers["checked"], _without_empty(segments))


def _asked(source: str, numbers: dict[str, int], counts: Counts) -> Flow:
    """One source of an augment stage: {"planned": 10, "ok": 8, "truncated": 2}; planned = ok + reasons."""
    reasons = {reason: count for reason, count in numbers.items() if reason not in ("planned", "ok")}
    segments = [Segment("kept", "kept", numbers.get("ok", 0))]
    segments += [
        Segment("failed" if reason in counts.failed else "rejected", reason, count)
        for reason, count in _descending(reasons)
    ]
    return Flow(source, numbers["planned"], _without_empty(segments))


def _counted(name: str, counts: Counts) -> Flow:
    segments = [
        Segment("kept", "kept", counts.ok),
        *(Segment("rejected", reason, count) for reason, count in _descending(counts.rejected)),
        *(Segment("failed", reason, count) for reason, count in _descending(counts.failed)),
    ]
    return Flow(name, counts.planned, _without_empty(segments))


def _sampled(flow: Flow, sample: dict[str, Any]) -> Flow:
    """An augment stage plans a sample: what it did not send stands in the flow as unused."""
    available = sum(sample.get("available", {}).values())
    unused = max(0, available - flow.total)
    kept, *rest = flow.segments
    return Flow(flow.name, flow.total + unused, _without_empty([kept, Segment("unused", "not_sampled", unused), *rest]))


def _sum(name: str, flows: tuple[Flow, ...]) -> Flow:
    rows: dict[tuple[SegmentState, str], int] = {}
    for flow in flows:
        for segment in flow.segments:
            rows[segment.state, segment.reason] = rows.get((segment.state, segment.reason), 0) + segment.rows
    good = [
        Segment(state, reason, count)
        for (state, reason), count in rows.items()
        if state in ("kept", "heldout", "unused")
    ]
    good.sort(key=lambda segment: ("kept", "heldout", "unused").index(segment.state))
    bad = [Segment(state, reason, count) for (state, reason), count in rows.items() if state in ("rejected", "failed")]
    bad.sort(key=lambda segment: -segment.rows)
    return Flow(name, sum(flow.total for flow in flows), (*good, *bad))


def _descending(reasons: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(reasons.items(), key=lambda item: (-item[1], item[0]))


def _without_empty(segments: list[Segment]) -> tuple[Segment, ...]:
    """Segments with rows; the kept one stays even when nothing was kept."""
    return tuple(segment for segment in segments if segment.rows or segment.state == "kept")
