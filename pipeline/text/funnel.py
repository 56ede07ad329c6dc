"""What a prepare stage measured: where every line of every source went, and what the sampled rows look like."""

from typing import Any

import numpy as np

from pipeline.text.examine import CODES, REASONS
from pipeline.text.sampling import FATES, HELDOUT, NOT_SAMPLED, SAMPLED, Selection
from pipeline.text.table import Table

LENGTH_EDGES = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
MOST_SOURCES = 200
OTHER = "(other sources)"


def measure(table: Table, selection: Selection) -> dict[str, Any]:
    """The funnel per source, lengths in characters and turns of the sampled rows, and the lines of the input.

    In each source: read = sum of rejected + duplicates + heldout + not_sampled + sampled.
    """
    names, place = _shown_sources(table)
    fates = np.zeros(len(names) * FATES, np.int64)
    lengths = np.zeros(len(LENGTH_EDGES) + 1, np.int64)
    sampled = multi = 0
    for batch in table.batches():
        fate = selection.fate[batch.start : batch.start + len(batch.records)]
        fates += np.bincount(place[batch.records["source"]] * FATES + fate, minlength=len(fates))
        rows = batch.records[fate == SAMPLED]
        lengths += np.bincount(np.searchsorted(LENGTH_EDGES, rows["chars"]), minlength=len(lengths))
        sampled += len(rows)
        multi += int(np.count_nonzero(rows["multi"]))
    by_source = fates.reshape(len(names), FATES).tolist()
    return {
        "lines": table.lines,
        "blank_lines": table.blank,
        "rows_read": table.rows,
        "sources": {name: _states(counts) for name, counts in zip(names, by_source, strict=True)},
        "length_chars": {"up_to": list(LENGTH_EDGES), "rows": lengths.tolist()},
        "turns": {"single": sampled - multi, "multi": multi},
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


def _shown_sources(table: Table) -> tuple[list[str], "np.ndarray[Any, Any]"]:
    """The `MOST_SOURCES` largest sources by name and one for the rest, and which of them each source counts as."""
    count = len(table.sources)
    read = np.zeros(count, np.int64)
    if count > MOST_SOURCES:
        for batch in table.batches():
            read += np.bincount(batch.records["source"], minlength=count)
    largest = sorted(np.argsort(-read, kind="stable")[:MOST_SOURCES].tolist())
    place = np.full(count, len(largest))
    place[largest] = np.arange(len(largest))
    return [table.sources[number] for number in largest] + ([OTHER] if count > len(largest) else []), place


def _states(counts: list[int]) -> dict[str, Any]:
    """One source's funnel from its rows by fate."""
    reasons = {REASONS[code]: counts[code] for code in range(1, len(REASONS)) if counts[code]}
    return {
        "read": sum(counts),
        "rejected": {reason: count for reason, count in reasons.items() if reason != "duplicate"},
        "duplicates": counts[CODES["duplicate"]],
        "heldout": counts[HELDOUT],
        "not_sampled": counts[NOT_SAMPLED],
        "sampled": counts[SAMPLED],
    }
