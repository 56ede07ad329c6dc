"""What a comparison does to the choice of rows, and a few removed rows beside what they resemble, for the report."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.text.comparing import LOG, Comparison
from pipeline.text.examine import CODES
from pipeline.text.files import is_splittable
from pipeline.text.near_duplicates import near_duplicates
from pipeline.text.ngrams import Positions
from pipeline.text.overlap import OverlapIndex, open_index, texts_of
from pipeline.text.partitions import Repeats
from pipeline.text.readers import LineCursor, without_bom
from pipeline.text.records import RECORD, Records
from pipeline.text.render import InputFile
from pipeline.text.sampling import NOT_SAMPLED, Fates
from pipeline.text.table import Table

SHOWN_PAIRS = 5
_SHOWN_CHARS = 600
_CHEAP_BYTES = 1 << 26  # a larger compressed file is not unpacked for a few rows to show


@dataclass(frozen=True)
class Resembling:
    """A comparison over a table: `select` calls `mark` once exact duplicates are known."""

    table: Table
    files: Sequence[InputFile]
    comparison: Comparison

    def mark(self, fate: Fates, repeats: Repeats) -> Repeats:
        """Give the rows that meet a prompt their fate, then near-duplicates among the rest; gives all repeats."""
        sound = np.flatnonzero((fate == NOT_SAMPLED) | (fate == CODES["duplicate"]))
        if self.comparison.index is not None:
            removed = sound[self.comparison.overlap]
            fate[removed] = CODES["overlap_ngram"]
            fate[sound[self.comparison.exact]] = CODES["overlap"]
            found = self.comparison.measured["overlap_ngrams"]
            found["pairs"] = self._overlap_pairs(removed, open_index(self.comparison.index))
        return self._mark_near_duplicates(fate, sound, repeats)

    def _mark_near_duplicates(self, fate: Fates, sound: Positions, repeats: Repeats) -> Repeats:
        rule, signatures = self.comparison.settings.near_duplicates, self.comparison.signatures
        if rule is None or signatures is None:
            return repeats
        began = time.perf_counter()
        stands = near_duplicates(signatures, fate[sound] == NOT_SAMPLED, rule.threshold)
        gone = np.flatnonzero(stands >= 0)
        removed, kept = sound[gone], sound[stands[gone]]
        fate[removed] = CODES["near_duplicate"]
        found = self.comparison.measured["near_duplicates"]
        found |= {"removed": len(gone), "seconds": round(found["seconds"] + time.perf_counter() - began, 1)}
        LOG.info("near_duplicates: {compared:,} rows compared, {removed:,} removed, {seconds} s".format(**found))
        shown = self._shown(removed)
        likeness = signatures.likeness(gone[shown], stands[gone[shown]]).tolist()
        found["pairs"] = [
            {**self._row(left), **self._row(right, "with"), "shared": share}
            for left, right, share in zip(removed[shown].tolist(), kept[shown].tolist(), likeness, strict=True)
        ]
        columns = (removed, kept, _records(self.table, kept)["line"])
        joined = [np.concatenate([old, new.astype(np.uint32)]) for old, new in zip(repeats, columns, strict=True)]
        order = np.argsort(joined[0], kind="stable")
        return Repeats(*(column[order] for column in joined))

    def _overlap_pairs(self, removed: Positions, index: OverlapIndex) -> list[dict[str, Any]]:
        pairs = []
        for position in removed[self._shown(removed)].tolist():
            match = index.match(self._texts(position))
            if match is not None:
                said = {"with": match.prompt.place, "with_text": _cut(match.prompt.texts)}
                pairs.append({**self._row(position), **said, "shared": match.shared / match.of, "ngram": match.ngram})
        return pairs

    def _shown(self, removed: Positions) -> Positions:
        """Which of the removed rows to show: a few, evenly over the input, in files that cost little to read."""
        files = [entry.file for entry in self.files]
        cheap = np.array([is_splittable(file.name) or file.bytes <= _CHEAP_BYTES for file in files], bool)
        places = np.flatnonzero(cheap[self.table.files(removed)]) if len(removed) else removed
        evenly = np.unique(np.linspace(0, max(0, len(places) - 1), SHOWN_PAIRS).astype(np.int64))
        return places[evenly[: len(places)]]

    def _row(self, position: int, name: str = "") -> dict[str, str]:
        """Where a row stands and what it says.

        Example: {"origin": "a.jsonl:5", "text": "..."}; under the name "with": {"with": ..., "with_text": ...}
        """
        at = np.array([position])
        origin = self.files[int(self.table.files(at)[0])].origin_of(int(_records(self.table, at)["line"][0]))
        return {name or "origin": origin, f"{name}_text" if name else "text": _cut(self._texts(position))}

    def _texts(self, position: int) -> list[str]:
        at = np.array([position])
        record = _records(self.table, at)[0]
        with contextlib.closing(LineCursor(self.files[int(self.table.files(at)[0])].file)) as cursor:
            line = cursor.read(int(record["offset"]), int(record["length"]), int(record["length"]))
        return texts_of(without_bom(line, int(record["offset"])), self.comparison.settings.columns)


def _records(table: Table, positions: Positions) -> Records:
    """The records at some positions, in that order."""
    out = np.zeros(len(positions), RECORD)
    for batch in table.batches():
        here = (positions >= batch.start) & (positions < batch.start + len(batch.records))
        out[here] = batch.records[positions[here] - batch.start]
    return out


def _cut(texts: Sequence[str]) -> str:
    text = "\n\n".join(texts)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]} … (+{len(text) - _SHOWN_CHARS:,})"
