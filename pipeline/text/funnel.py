"""What a prepare stage measured: where every line of every source went, and what the sampled rows look like."""

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.text.examine import CODES, REASONS
from pipeline.text.records import Table
from pipeline.text.sampling import Selection

LENGTH_EDGES = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
MOST_SOURCES = 200
OTHER = "(other sources)"


def measure(table: Table, selection: Selection) -> dict[str, Any]:
    """The funnel per source, lengths in characters and turns of the sampled rows, and the lines of the input.

    In each source: read = sum of rejected + duplicates + heldout + not_sampled + sampled.
    """
    rows = table.records[selection.rows]
    multi = int(np.count_nonzero(rows["multi"]))
    lengths = np.bincount(np.searchsorted(LENGTH_EDGES, rows["chars"]), minlength=len(LENGTH_EDGES) + 1)
    return {
        "lines": table.lines,
        "blank_lines": table.blank,
        "rows_read": len(table.records),
        "sources": _funnel(table, selection),
        "length_chars": {"up_to": list(LENGTH_EDGES), "rows": lengths.tolist()},
        "turns": {"single": len(rows) - multi, "multi": multi},
    }


def totals(measured: dict[str, Any]) -> dict[str, int]:
    """Rows by state over all sources, reasons of rejection included; for messages.

    Example: {"read": 10, "sampled": 6, "not_sampled": 0, "heldout": 0, "duplicate": 1, "chinese": 3}
    """
    out: dict[str, int] = {"read": 0, "sampled": 0, "not_sampled": 0, "heldout": 0, "duplicate": 0}
    for source in measured["sources"].values():
        for state in ("read", "sampled", "not_sampled", "heldout"):
            out[state] += source[state]
        out["duplicate"] += source["duplicates"]
        for reason, count in source["rejected"].items():
            out[reason] = out.get(reason, 0) + count
    return out


def _funnel(table: Table, selection: Selection) -> dict[str, Any]:
    """One entry per source, the largest `MOST_SOURCES` by name and the rest together."""
    count = len(table.sources)
    source = table.records["source"]
    read = np.bincount(source, minlength=count)
    largest = sorted(np.argsort(-read, kind="stable")[:MOST_SOURCES].tolist())
    place = np.full(count, len(largest))
    place[largest] = np.arange(len(largest))
    names = [table.sources[number] for number in largest] + ([OTHER] if count > len(largest) else [])

    def counted(positions: npt.NDArray[np.int64]) -> list[int]:
        return [int(number) for number in np.bincount(place[source[positions]], minlength=len(names))]

    reads, sampled = counted(np.arange(len(source))), counted(selection.rows)
    heldout, rejects = counted(selection.heldout), counted(selection.rejects)
    codes = selection.code[selection.rejects]
    reasons = {int(code): counted(selection.rejects[codes == code]) for code in np.unique(codes)}
    duplicates = reasons.pop(CODES["duplicate"], [0] * len(names))
    return {
        name: {
            "read": reads[at],
            "rejected": {REASONS[code]: numbers[at] for code, numbers in reasons.items() if numbers[at]},
            "duplicates": duplicates[at],
            "heldout": heldout[at],
            "not_sampled": reads[at] - sampled[at] - heldout[at] - rejects[at],
            "sampled": sampled[at],
        }
        for at, name in enumerate(names)
    }
