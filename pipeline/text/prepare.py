"""The prepare stage: raw rows in, checked, deduplicated, split, sampled and sharded rows out, in two passes.

Pass 1 judges every line and journals fixed-size records; all choices are made on the records; pass 2 reads the chosen
lines again and commits shard by shard. The same bytes for any number of workers and any order of files.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from pipeline.errors import Trouble
from pipeline.store.division import share, wait_for_others
from pipeline.store.inputs import SourceFile
from pipeline.store.stage import Stage
from pipeline.text.comparing import compare
from pipeline.text.compiled import warn_without_row_reader
from pipeline.text.examine import Rules
from pipeline.text.funnel import measure, totals
from pipeline.text.inputs import input_files, preflight, rules_of
from pipeline.text.limits import check_enough, check_source_names
from pipeline.text.records import scan_units
from pipeline.text.resembling import Resembling
from pipeline.text.sampling import HELDOUT, NOT_SAMPLED, SAMPLED, Selection, select
from pipeline.text.scan import UNIT_BYTES, Scanning, journal_key, journaled, scan_unit
from pipeline.text.settings import PrepareSettings
from pipeline.text.table import Table, tabulate
from pipeline.text.workers import available_cores, in_processes, warm_up
from pipeline.text.write import WriteUnit, Writing, save_lines, write_unit, write_units

__all__ = ["preflight", "run"]

_SMALL_BYTES = 1 << 27  # below this, starting processes costs more than they save


def run(stage: Stage) -> None:
    """Do the stage, or what of it is not done. UserError when too few rows pass; nothing is committed then."""
    directory = stage.directory
    if directory.manifest() is not None:
        return
    plan = _standing_plan(stage)
    if plan is None or set(plan["units"]) - directory.done_names():
        plan = _work(stage)
    directory.commit_manifest(plan["units"], plan["measurements"])


def _standing_plan(stage: Stage) -> dict[str, Any] | None:
    try:
        return orjson.loads(stage.store.read(stage.directory.key("plan.json")))  # type: ignore[no-any-return]
    except FileNotFoundError:
        return None


def _work(stage: Stage) -> dict[str, Any]:
    """Both passes; gives the plan whose units are now all committed."""
    settings: PrepareSettings = stage.settings
    warn_without_row_reader()
    warm_up(_workers(stage, [file for reference in settings.references() for file in stage.rows(reference).files()]))
    files = input_files(stage)
    rules = rules_of(stage)
    table = _scanned(stage, [entry.file for entry in files], rules)
    check_source_names(stage.name, settings, table)
    sources = [entry.file for entry in files]
    comparison = compare(stage, sources, scan_units(sources, UNIT_BYTES), _workers(stage, sources))
    mark = None if comparison is None else Resembling(table, files, comparison).mark
    selection = select(table, settings, _folder(stage, "parts"), mark)
    measured = measure(table, selection) | ({} if comparison is None else comparison.measured)
    check_enough(stage.name, settings, selection, measured)
    units = _write_units(selection, settings)
    names = [unit.name for unit in units]
    plan = stage.directory.plan(lambda: {"units": names, "measurements": measured, "seed": settings.seed})
    if plan["units"] != names:
        raise Trouble(f"{stage.directory.prefix}: the plan has {len(plan['units'])} units, not {len(names)}")
    lines = _folder(stage, "lines")
    save_lines(lines, table, selection)
    plain_rules = Rules(**{**vars(rules), "overlap": frozenset()})
    writing = Writing(
        stage.directory,
        tuple(files),
        tuple(table.sources),
        plain_rules,
        settings,
        lines,
        shared=stage.of > 1,
        index=None if comparison is None else comparison.index,
    )
    _write(stage, writing, units, totals(measured))
    return plan


def _scanned(stage: Stage, files: list[SourceFile], rules: Rules) -> Table:
    """Pass 1, or what of it the journal lacks."""
    directory, store = stage.directory, stage.store
    units = scan_units(files, UNIT_BYTES)

    def missing() -> set[str]:
        journaled = {entry.key for entry in store.list(directory.key("journal"))}
        return {journal_key(directory, unit) for unit in units} - journaled

    lacking = missing()
    left = [unit for unit in share(stage, units) if journal_key(directory, unit) in lacking]
    lines = 0
    scanning = Scanning(directory, tuple(files), rules, shared=stage.of > 1)
    for count in in_processes(scan_unit, scanning, left, _workers(stage, files), stage.stop):
        lines += count
        stage.progress.update(done=lines, phase="scan")
    wait_for_others(stage, missing)
    return tabulate(stage.scratch() / "records", ((unit, journaled(directory, unit)) for unit in units))


def _folder(stage: Stage, name: str) -> Path:
    folder = stage.scratch() / name
    folder.mkdir(exist_ok=True)
    return folder


def _write_units(selection: Selection, settings: PrepareSettings) -> list[WriteUnit]:
    counts = selection.counts()
    return write_units(counts[SAMPLED], counts[HELDOUT], sum(counts[:NOT_SAMPLED]), settings.shard_rows)


def _write(stage: Stage, writing: Writing, units: list[WriteUnit], counts: dict[str, int]) -> None:
    """Pass 2, or what of it is not committed."""
    done = stage.directory.done_names()
    total = sum(unit.stop - unit.start for unit in units)
    written = sum(unit.stop - unit.start for unit in units if unit.name in done)
    left = [unit for unit in share(stage, units) if unit.name not in done]
    stage.progress.update(done=written, total=total, counts=counts, phase="write")
    workers = _workers(stage, [entry.file for entry in writing.files])
    left.sort(key=lambda unit: unit.output != "rejects")  # a reject takes longest: none of them is left to the end
    for count in in_processes(write_unit, writing, left, workers, stage.stop):
        written += count
        stage.progress.update(done=written, total=total, counts=counts, phase="write")
    wait_for_others(stage, lambda: {unit.name for unit in units} - stage.directory.done_names())


def _workers(stage: Stage, files: Sequence[SourceFile]) -> int:
    settings: PrepareSettings = stage.settings
    if settings.workers is not None:
        return settings.workers
    return available_cores() if sum(file.bytes for file in files) >= _SMALL_BYTES else 1
