"""Between the scan and the choice of rows: sound rows compared with other sets by n-grams, and with each other.

Only where the recipe asks for `overlap_ngrams` or `near_duplicates`. Every unit of the scan is read once more by worker
processes and journaled when it is done, so that the work resumes and divides as the scan does; which rows go is then
decided from all units together, in file and line order, by every worker alike.
"""

import contextlib
import itertools
import logging
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from pipeline.store.commit import StageDirectory
from pipeline.store.division import share, wait_for_others
from pipeline.store.inputs import SourceFile
from pipeline.store.stage import Stage
from pipeline.text.inputs import overlap_prompts
from pipeline.text.near_duplicates import ROW_BYTES, SLOTS, SignatureFile, Signatures, signatures
from pipeline.text.ngrams import PIECE_CHARS, Positions, ngram_hashes
from pipeline.text.overlap import build_index, open_index, spoken
from pipeline.text.readers import LineCursor, without_bom
from pipeline.text.records import ScanUnit
from pipeline.text.scan import journaled
from pipeline.text.settings import PrepareSettings
from pipeline.text.workers import in_processes

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparing:
    """What every unit needs. `index` is the folder of an `OverlapIndex`; signatures go through `scratch`."""

    directory: StageDirectory
    files: tuple[SourceFile, ...]
    settings: PrepareSettings
    index: Path | None
    scratch: Path


@dataclass(frozen=True)
class Comparison:
    """What all units found. Rows are counted here among the rows that the scan found sound, in file and line order.

    `exact`: the rows that hold a prompt; `overlap`: others that meet one; `signatures`: of all sound rows; `measured`:
    what it cost, by setting.
    """

    settings: PrepareSettings
    exact: Positions
    overlap: Positions
    signatures: SignatureFile | None
    index: Path | None
    measured: dict[str, dict[str, Any]]


def compare(stage: Stage, files: Sequence[SourceFile], units: list[ScanUnit], workers: int) -> Comparison | None:
    """Compare every sound row, or those of the units that the journal lacks; None when the recipe asks for nothing."""
    settings: PrepareSettings = stage.settings
    if settings.overlap_ngrams is None and settings.near_duplicates is None:
        return None
    scratch = stage.scratch() / "comparing"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    began = time.perf_counter()
    index = None
    if settings.overlap_ngrams is not None:
        index = build_index(scratch / "index", overlap_prompts(stage), settings.overlap_ngrams)
    indexing = time.perf_counter() - began
    folder = None if index is None else index.folder
    _compare_units(stage, Comparing(stage.directory, tuple(files), settings, folder, scratch), units, workers)
    found = [orjson.loads(stage.store.read(_key(stage.directory, unit))) for unit in units]
    starts = [0, *itertools.accumulate(part["rows"] for part in found)]
    exact, overlap = (
        np.array([start + row for start, part in zip(starts, found, strict=False) for row in part[name]], np.int64)
        for name in ("exact", "overlap")
    )
    measured: dict[str, dict[str, Any]] = {}
    if index is not None:
        spent = round(indexing + sum(part["seconds"][0] for part in found), 1)
        measured["overlap_ngrams"] = {"compared": starts[-1], "removed": len(overlap), "seconds": spent, **index.size()}
        LOG.info(
            "overlap_ngrams: {compared:,} rows compared with {prompts:,} prompts ({bare:,} of them by their whole text "
            "alone), {removed:,} removed, {seconds} s".format(**measured["overlap_ngrams"])
        )
    signed = None
    if settings.near_duplicates is not None:
        began = time.perf_counter()
        parts = _signatures(stage, scratch / "unit", [part["signatures"] for part in found])
        signed = SignatureFile.written(scratch / "signatures", starts[-1], parts)
        spent = sum(part["seconds"][1] for part in found) + time.perf_counter() - began
        measured["near_duplicates"] = {"compared": starts[-1], "seconds": spent}
    return Comparison(settings, exact, overlap, signed, folder, measured)


def compare_unit(comparing: Comparing, unit: ScanUnit) -> int:
    """Compare the sound rows of one scanned unit and journal it; gives their number. Another's may stand already."""
    directory, settings = comparing.directory, comparing.settings
    index = None if comparing.index is None else open_index(comparing.index)
    spool = comparing.scratch / f"{unit.name}.signatures"
    rows, seconds = 0, [0.0, 0.0]
    exact: list[int] = []
    overlap: list[int] = []
    with spool.open("wb") as file:
        for batch in _batches(_sound_rows(comparing, unit)):
            began = time.perf_counter()
            if index is not None:
                grams = ngram_hashes([text for turns in batch for _, text in turns], index.rule.n)
                held = index.holds(grams, batch)
                met = [row for row, _ in index.meets(grams, [len(turns) for turns in batch])]
                exact.extend(rows + row for row in held)
                overlap.extend(rows + row for row in met if row not in held)
            between = time.perf_counter()
            if settings.near_duplicates is not None:
                texts = ["\n".join([text for _, text in turns]) for turns in batch]
                file.write(signatures(texts, settings.near_duplicates.n).tobytes())
            seconds = [seconds[0] + between - began, seconds[1] + time.perf_counter() - between]
            rows += len(batch)
    key = directory.key("compared", f"{unit.name}-{uuid.uuid4().hex}.signatures") if spool.stat().st_size else None
    if key is not None:
        directory.store.upload(key, spool)
    spool.unlink()
    found = {"rows": rows, "exact": exact, "overlap": overlap, "signatures": key, "seconds": seconds}
    if not directory.store.create(_key(directory, unit), orjson.dumps(found)) and key is not None:
        directory.store.delete(key)
    return rows


def _key(directory: StageDirectory, unit: ScanUnit) -> str:
    return directory.key("compared", f"{unit.name}.json")


def _compare_units(stage: Stage, comparing: Comparing, units: list[ScanUnit], workers: int) -> None:
    """The pass over all units, or what of it the journal lacks."""

    def missing() -> set[str]:
        there = {entry.key for entry in stage.store.list(stage.directory.key("compared"))}
        return {_key(stage.directory, unit) for unit in units} - there

    lacking = missing()
    left = [unit for unit in share(stage, units) if _key(stage.directory, unit) in lacking]
    rows = 0
    for count in in_processes(compare_unit, comparing, left, workers, stage.stop):
        rows += count
        stage.progress.update(done=rows, phase="compare")
    wait_for_others(stage, missing)


def _sound_rows(comparing: Comparing, unit: ScanUnit) -> Iterator[list[tuple[str, str]]]:
    """The turns of every sound row of a unit, in line order."""
    with contextlib.closing(LineCursor(comparing.files[unit.file])) as cursor:
        for piece in journaled(comparing.directory, unit):
            records = piece.records[piece.records["code"] == 0]
            for offset, length in zip(records["offset"].tolist(), records["length"].tolist(), strict=True):
                line = without_bom(cursor.read(offset, length), offset)
                yield spoken(line, comparing.settings.columns)


def _batches(rows: Iterator[list[tuple[str, str]]]) -> Iterator[list[list[tuple[str, str]]]]:
    """Rows of about 65,536 characters together."""
    batch: list[list[tuple[str, str]]] = []
    chars = 0
    for turns in rows:
        batch.append(turns)
        chars += sum([len(text) for _, text in turns])
        if chars >= PIECE_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _signatures(stage: Stage, local: Path, keys: list[str | None]) -> Iterator[Signatures]:
    """The signatures of all units in order, some thousands at a time."""
    for key in filter(None, keys):
        stage.store.download(key, local)
        with local.open("rb") as file:
            while data := file.read(ROW_BYTES << 13):
                yield np.frombuffer(data, np.uint16).reshape(-1, SLOTS)
        local.unlink()
