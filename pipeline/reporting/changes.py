"""Which rows two sets share, which changed, and why the others are in one of them only; joined by row id.

Each set is read once, and so are the rejects and held-out rows that explain it; memory is that of one part and one
partition, whatever the sets' sizes.
"""

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from pipeline.reporting.partitions import Partitions, Records, by_occurrence, partition_count
from pipeline.reporting.rows import OutputRows, split_origin

_ROW = struct.Struct("<QQQIII")
ROW = np.dtype(
    [("key", "<u8"), ("content", "<u8"), ("origin", "<u8"), ("place", "<u4"), ("source", "<u4"), ("file", "<u4")]
)
_REASON = struct.Struct("<QI")
REASON = np.dtype([("key", "<u8"), ("code", "<u4")])
_ID_IN_LINE = re.compile(rb'\\"id\\":\\"([^"\\]+)\\"')
_LATER = 1 << 30  # codes of what explains a row only when no reject does


@dataclass(frozen=True)
class RowSet:
    """One side: its rows, what became of rows that are not in it, and the answer of last resort.

    `explained` gives outputs by reason: "" for rejects, which name their own, else the reason of every row in it.
    `otherwise` names why a row from a file (of the other side) is absent when nothing explains it.
    """

    rows: OutputRows
    explained: tuple[tuple[str, OutputRows], ...] = ()
    otherwise: Callable[[str], str] = lambda _: "not_sampled"


@dataclass
class Gone:
    """Rows that are in one side only: counts by (source, reason), and places of examples by reason."""

    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    examples: dict[str, list[tuple[int, int]]] = field(default_factory=dict)  # (key, place), the lowest keys


@dataclass
class Changes:
    """What `compare` found. `changed_examples` are pairs of places; `changed` counts by source."""

    same: int = 0
    changed: dict[str, int] = field(default_factory=dict)
    changed_examples: list[tuple[int, int, int]] = field(default_factory=list)  # key, place in A, place in B
    left: Gone = field(default_factory=Gone)
    came: Gone = field(default_factory=Gone)


class _Row(msgspec.Struct):
    id: str = ""
    source: str = ""
    origin: str = ""
    messages: msgspec.Raw = msgspec.Raw(b"")


class _Reject(msgspec.Struct):
    reason: str = ""
    origin: str = ""
    id: str = ""


class _Names:
    """Numbers for names, in the order of their first use."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __call__(self, name: str) -> int:
        return self.numbers.setdefault(name, len(self.numbers))

    def __getitem__(self, number: int) -> str:
        return list(self.numbers)[number]


class _Side:
    """One set and its reasons as partitions on disk."""

    def __init__(self, given: RowSet, folder: Path, label: str, count: int, sources: _Names, files: _Names) -> None:
        self.given, self.sources, self.files = given, sources, files
        self.reasons = _Names()
        self.late = [reason for reason, _ in given.explained if reason]
        self.rows = Partitions(folder, f"{label}-rows", count, ROW)
        self.why = Partitions(folder, f"{label}-why", count, REASON)
        self.unexplained = Partitions(folder, f"{label}-open", count, ROW)  # of the other side's rows, by origin
        self.rows.add_packed(self._packed_rows())
        for reason, rows in given.explained:
            code = _LATER + self.late.index(reason) if reason else None
            self.why.add_packed(_packed_reasons(rows, code, self.reasons))

    def _packed_rows(self) -> Iterator[bytes]:
        decode, pack = msgspec.json.Decoder(_Row).decode, _ROW.pack
        for place, line in enumerate(self.given.rows.lines()):
            row = decode(line)
            file = self.files(split_origin(row.origin)[0])
            content = xxhash.xxh3_64_intdigest(row.messages)
            yield pack(_hash(row.id), content, _hash(row.origin), place, self.sources(row.source), file)

    def reason(self, code: int) -> str:
        """The reason behind a code."""
        return self.late[code - _LATER] if code >= _LATER else self.reasons[code]


def compare(a: RowSet, b: RowSet, folder: Path, examples: int = 3, partitions: int | None = None) -> Changes:
    """Join two sets by row id; `folder` takes about 60 bytes of scratch a row. `partitions` is for tests.

    A row that stands n times in one set and m times in the other counts as min(n, m) rows that both have.
    """
    count = partitions or partition_count(max(a.rows.total, b.rows.total))
    sources, files = _Names(), _Names()
    side_a = _Side(a, folder, "a", count, sources, files)
    side_b = _Side(b, folder, "b", count, sources, files)
    found = Changes()
    for number in range(count):
        rows_a, keys_a = by_occurrence(side_a.rows.read(number))
        rows_b, keys_b = by_occurrence(side_b.rows.read(number))
        _, in_a, in_b = np.intersect1d(keys_a, keys_b, assume_unique=True, return_indices=True)
        _note_common(found, rows_a[in_a], rows_b[in_b], sources, examples)
        _explain(found.left, np.delete(rows_a, in_a), side_b, number, examples)
        _explain(found.came, np.delete(rows_b, in_b), side_a, number, examples)
    for gone, side in ((found.left, side_b), (found.came, side_a)):
        for number in range(count):
            _explain(gone, side.unexplained.read(number), side, number, examples, last=True)
    return found


def _note_common(found: Changes, a: Records, b: Records, sources: _Names, examples: int) -> None:
    other = a["content"] != b["content"]
    a, b = a[other], b[other]
    found.same += len(other) - len(a)
    for number, rows in zip(*np.unique(b["source"], return_counts=True), strict=True):
        found.changed[sources[number]] = found.changed.get(sources[number], 0) + int(rows)
    places = zip(a["key"][:examples].tolist(), a["place"].tolist(), b["place"].tolist(), strict=False)
    found.changed_examples = sorted([*found.changed_examples, *places])[:examples]


def _explain(gone: Gone, rows: Records, other: _Side, number: int, examples: int, last: bool = False) -> None:
    """Count rows under the reason that `other` has for their key; what has none waits under its origin, or is `last`.

    The partition `number` holds both the rows and all that may explain them.
    """
    codes, known = _codes(other.why.read(number), rows["key"])
    _note_gone(gone, rows[known], [other.reason(code) for code in codes[known].tolist()], other.sources, examples)
    rest = rows[~known]
    if last:
        names = {code: other.given.otherwise(other.files[code]) for code in np.unique(rest["file"]).tolist()}
        _note_gone(gone, rest, [names[code] for code in rest["file"].tolist()], other.sources, examples)
    elif len(rest):
        waiting = rest.copy()
        waiting["key"] = rest["origin"]
        other.unexplained.add(waiting)


def _codes(reasons: Records, keys: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """For each key the lowest code that the reasons have for it, and whether they have any."""
    if not len(reasons):
        return np.zeros(len(keys), np.uint32), np.zeros(len(keys), bool)
    ordered = reasons[np.lexsort((reasons["code"], reasons["key"]))]
    at = np.minimum(np.searchsorted(ordered["key"], keys), len(ordered) - 1)
    return ordered["code"][at], ordered["key"][at] == keys


def _note_gone(gone: Gone, rows: Records, reasons: list[str], sources: _Names, examples: int) -> None:
    named = list(sources.numbers)
    for source, key, place, reason in zip(
        rows["source"].tolist(), rows["key"].tolist(), rows["place"].tolist(), reasons, strict=True
    ):
        gone.counts[named[source], reason] = gone.counts.get((named[source], reason), 0) + 1
        kept = gone.examples.setdefault(reason, [])
        if len(kept) < examples or key < kept[-1][0]:
            kept.append((key, place))
            kept.sort()
            del kept[examples:]


def _packed_reasons(rows: OutputRows, code: int | None, reasons: _Names) -> Iterator[bytes]:
    """A record for every name of an explained row: its id, or for rejects without one the place that it came from.

    Rows of an upstream stage keep their id inside the rejected line; that explains them too.
    """
    decode = msgspec.json.Decoder(_Reject).decode
    for line in rows.lines():
        row = decode(line)
        number = reasons(row.reason) if code is None else code
        yield _REASON.pack(_hash(row.id or row.origin), number)
        if not row.id and (inside := _ID_IN_LINE.search(line)):
            yield _REASON.pack(_hash(inside[1].decode()), number)


def _hash(name: str) -> int:
    return xxhash.xxh3_64_intdigest(name.encode())
