"""Which rows two sets share, which changed, and why the others are in one of them only; joined by row id.

Each set is read once, and so are the rejects and held-out rows that explain it, into a SQLite file of hashes; memory is
that of one part and of SQLite's cache, whatever the sets' sizes.
"""

import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import xxhash

from pipeline.reporting.rows import OutputRows, split_origin

_ID_IN_LINE = re.compile(rb'\\"id\\":\\"([^"\\]+)\\"')
_LATER = 1 << 30  # codes of what explains a row only when no reject does
TABLES = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -16384;
CREATE TABLE read_{side} (key, place, content, origin, source, file);
CREATE TABLE given_{side} (key, code);
"""
# The n-th row of one id pairs with the n-th of the other set; of several reasons for a key the lowest code counts.
SORTED = """
CREATE TABLE rows_{side} (key, nth, place, content, origin, source, file, PRIMARY KEY (key, nth)) WITHOUT ROWID;
INSERT INTO rows_{side} SELECT key, row_number() OVER (PARTITION BY key ORDER BY place), place, content, origin, source,
  file FROM read_{side};
CREATE TABLE reasons_{side} (key PRIMARY KEY, code) WITHOUT ROWID;
INSERT INTO reasons_{side} SELECT key, min(code) FROM given_{side} GROUP BY key;
DROP TABLE read_{side}; DROP TABLE given_{side};
"""
COMMON = "SELECT b.source, a.content = b.content, count(*) FROM rows_a a JOIN rows_b b USING (key, nth) GROUP BY 1, 2"
CHANGED = """
SELECT a.place, b.place FROM rows_a a JOIN rows_b b USING (key, nth)
WHERE a.content != b.content ORDER BY key, nth LIMIT ?
"""
GONE = """
SELECT mine.source, mine.place, mine.file, coalesce(by_key.code, by_origin.code)
FROM rows_{side} mine LEFT JOIN rows_{other} theirs USING (key, nth)
LEFT JOIN reasons_{other} by_key ON by_key.key = mine.key
LEFT JOIN reasons_{other} by_origin ON by_origin.key = mine.origin
WHERE theirs.place IS NULL ORDER BY mine.key, mine.nth
"""


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
    examples: dict[str, list[int]] = field(default_factory=dict)  # the lowest keys


@dataclass
class Changes:
    """What `compare` found. `changed_examples` are places in A and in B; `changed` counts by source."""

    same: int
    changed: dict[str, int]
    changed_examples: list[tuple[int, int]]
    left: Gone
    came: Gone


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


def compare(a: RowSet, b: RowSet, folder: Path, examples: int = 3) -> Changes:
    """Join two sets by row id; `folder` takes about 125 bytes of scratch a row.

    A row that stands n times in one set and m times in the other counts as min(n, m) rows that both have.
    """
    os.environ["SQLITE_TMPDIR"] = str(folder)  # where it sorts
    sources, files = _Names(), _Names()
    with closing(sqlite3.connect(folder / "rows.sqlite")) as base:
        reasons_a, reasons_b = _fill(base, "a", a, sources, files), _fill(base, "b", b, sources, files)
        named = list(sources.numbers)
        common = base.execute(COMMON).fetchall()
        return Changes(
            same=sum(rows for _, same, rows in common if same),
            changed={named[source]: rows for source, same, rows in common if not same},
            changed_examples=base.execute(CHANGED, (examples,)).fetchall(),
            left=_gone(base.execute(GONE.format(side="a", other="b")), b, reasons_b, named, files, examples),
            came=_gone(base.execute(GONE.format(side="b", other="a")), a, reasons_a, named, files, examples),
        )


def _fill(base: sqlite3.Connection, side: str, given: RowSet, sources: _Names, files: _Names) -> dict[int, str]:
    """Write a side's rows and reasons; gives the reasons by code."""
    base.executescript(TABLES.format(side=side))
    base.executemany(f"INSERT INTO read_{side} VALUES (?, ?, ?, ?, ?, ?)", _rows(given.rows, sources, files))
    rejected, later = _Names(), {}
    for number, (reason, rows) in enumerate(given.explained, _LATER):
        if reason:
            later[number] = reason
        code = number if reason else None
        base.executemany(f"INSERT INTO given_{side} VALUES (?, ?)", _reasons(rows, code, rejected))
    base.executescript(SORTED.format(side=side))
    return {**{code: reason for reason, code in rejected.numbers.items()}, **later}


def _rows(rows: OutputRows, sources: _Names, files: _Names) -> Iterator[tuple[int, ...]]:
    decode = msgspec.json.Decoder(_Row).decode
    for place, line in enumerate(rows.lines()):
        row = decode(line)
        file = files(split_origin(row.origin)[0])
        yield _hash(row.id), place, _hash(row.messages), _hash(row.origin), sources(row.source), file


def _reasons(rows: OutputRows, code: int | None, rejected: _Names) -> Iterator[tuple[int, int]]:
    """A record for every name of an explained row: its id, or for rejects without one the place that it came from.

    Rows of an upstream stage keep their id inside the rejected line; that explains them too.
    """
    decode = msgspec.json.Decoder(_Reject).decode
    for line in rows.lines():
        row = decode(line)
        number = rejected(row.reason) if code is None else code
        yield _hash(row.id or row.origin), number
        if not row.id and (inside := _ID_IN_LINE.search(line)):
            yield _hash(inside[1]), number


def _gone(
    rows: sqlite3.Cursor, lacking: RowSet, reasons: dict[int, str], sources: list[str], files: _Names, examples: int
) -> Gone:
    """Count the rows that a set lacks under the reason that it has for their id, else for their origin."""
    gone = Gone()
    otherwise = {number: lacking.otherwise(name) for name, number in files.numbers.items()}
    for source, place, file, code in rows:
        reason = otherwise[file] if code is None else reasons[code]
        gone.counts[sources[source], reason] = gone.counts.get((sources[source], reason), 0) + 1
        kept = gone.examples.setdefault(reason, [])
        if len(kept) < examples:
            kept.append(place)
    return gone


def _hash(name: str | bytes | msgspec.Raw) -> int:
    """64 bits with a sign, as SQLite keeps integers; in the order of the hashes."""
    return xxhash.xxh3_64_intdigest(name.encode() if isinstance(name, str) else name) - (1 << 63)
