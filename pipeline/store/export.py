"""Copies a stage's outputs out of the store under stable names that people know.

| kind      | what lies in the folder afterwards                                                           |
|-----------|----------------------------------------------------------------------------------------------|
| prepare   | phase1_korean_256000samples.jsonl, phase1_heldout_500samples.jsonl, phase1_rejects.jsonl     |
| augment   | one <source>_cot_augmented.jsonl per source, rejects                                         |
| validate  | one <source>_cot_validated.jsonl per source, rejects                                         |
| train     | final/ with adapter and tokenizer, metrics.jsonl                                             |
| merge     | final/ with the checkpoint                                                                   |
| evaluate  | scores and predictions                                                                       |

Rows keep their bytes. Every file is checked against the manifest and appears whole; `<stage>.manifest.json` says what
run, fingerprint and counts they belong to. `part_urls` names the parts where they lie, for readers that open URLs.
"""

import os
import re
import shutil
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import IO

import orjson

from pipeline.errors import UserError
from pipeline.recipe import models
from pipeline.store.commit import Manifest
from pipeline.store.disk import appearing, require_room
from pipeline.store.inputs import SourceFile, stored_files
from pipeline.store.named import run_output
from pipeline.store.objects import Store
from pipeline.store.probe import open_store
from pipeline.store.progress import read_metrics
from pipeline.store.runs import RunLock
from pipeline.store.stage import Rows
from pipeline.store.standing import check_gate
from pipeline.store.status import require_done

BY_SOURCE = {"augment": "cot_augmented", "validate": "cot_validated"}
FOLDER = "final"
UNUSABLE = re.compile(r"[^\w.-]+")  # in a file's name


def export(
    store: Store, lock: RunLock, stage: str, folder: Path, output: str | None = None, overwrite: bool = False
) -> list[Path]:
    """Write one output of a stage, or all of them, into `folder`; gives the files and folders made, in name order.

    Raises UserError when the stage is not done, has no such output, or names are taken; GateRefused for a main output
    that its gate refuses.
    """
    settings = lock.settings(stage)
    declared = type(settings).OUTPUTS
    if output is not None and output not in declared:
        raise UserError(f"stage {stage!r} has no output {output!r}; {models.nearest(output, list(declared))}")
    manifest, main = require_done(store, lock, stage), next(iter(declared))
    if output in (None, main):
        check_gate(lock, stage, manifest)
    wanted = [output] if output else [name for name in declared if manifest.outputs.get(name)]
    folder.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    for name in wanted:
        made += _one_output(store, lock, stage, manifest, name, folder, overwrite)
    if lock.stages[stage].kind == "train" and output in (None, main):
        records = map(orjson.dumps, read_metrics(lock.directory(store, stage)))
        made.append(_lines_file(folder / "metrics.jsonl", records, overwrite))
    provenance = orjson.dumps({"run": lock.run_id, "stage": stage, **manifest.raw}, option=orjson.OPT_INDENT_2)
    return sorted([*made, _lines_file(folder / f"{stage}.manifest.json", [provenance], overwrite=True)])


def part_urls(place: str, store: str = "") -> list[str]:
    """The URLs of the parts of `RUN:STAGE` or `RUN:STAGE/OUTPUT` in their order, as DuckDB and datasets open them.

    `store`: its URL, by default HANFORGE_STORE. Raises what `export` raises.
    Example: duckdb.sql("SELECT source, count(*) FROM read_json(?) GROUP BY 1", params=[part_urls("latest:prepare")])
    """
    opened = open_store(store or os.environ.get("HANFORGE_STORE", ""))
    return [file.url for file in run_output(opened, place, place).files]


def base_name(recipe: models.Recipe, stage: str) -> str:
    """What a prepared set is called: its stage's name without the word prepare, or the recipe's name.

    Example: "prepare_phase1" -> "phase1"; "prepare" of recipe "demo" -> "demo"
    """
    words = [word for word in re.split(r"[_-]", stage) if word not in ("prepare", "prepared", "data")]
    return "_".join(words) or recipe.name.replace("-", "_")


def _one_output(
    store: Store, lock: RunLock, stage: str, manifest: Manifest, output: str, folder: Path, overwrite: bool
) -> list[Path]:
    parts = manifest.outputs.get(output, [])
    if any(part.name for part in parts):
        is_checkpoint = type(lock.settings(stage)).OUTPUTS[output] in ("adapter", "model")
        return _named_files(stored_files(store, parts), folder / FOLDER if is_checkpoint else folder, overwrite)
    rows = Rows(store, stage, tuple(parts))
    kind, name = lock.stages[stage].kind, base_name(lock.recipe, stage)
    if output == "rows" and kind in BY_SOURCE:
        return _by_source(rows, folder, BY_SOURCE[kind], overwrite)
    what = {"rows": f"korean_{rows.total}samples", "heldout": f"heldout_{rows.total}samples"}.get(output, output)
    return [_lines_file(folder / f"{name}_{what}.jsonl", rows.lines(), overwrite)]


def _named_files(files: list[SourceFile], target: Path, overwrite: bool) -> list[Path]:
    """Download the files of a folder output; the folder appears whole."""
    require_room(target, sum(file.bytes for file in files), "Free disk space")
    incoming = target.with_name(f".{target.name}.incoming")
    shutil.rmtree(incoming, ignore_errors=True)
    for file in files:
        file.download(incoming / file.name)
    if target.name != FOLDER:  # single files beside others: scores.json and the like
        for file in files:
            _check_free(target / file.name, overwrite)
            (incoming / file.name).replace(target / file.name)
        shutil.rmtree(incoming)
        return [target / file.name for file in files]
    _check_free(target, overwrite)
    shutil.rmtree(target, ignore_errors=True)
    incoming.rename(target)
    return [target]


def _by_source(rows: Rows, folder: Path, suffix: str, overwrite: bool) -> list[Path]:
    """One file per source; sources whose names differ only in what no file name may hold share one."""
    files: dict[str, Path] = {}
    open_files: dict[Path, IO[bytes]] = {}
    with ExitStack() as stack:
        for line in rows.lines():
            source = str(orjson.loads(line)["source"])
            if source not in files:
                path = folder / f"{UNUSABLE.sub('_', source)}_{suffix}.jsonl"
                if path not in open_files:
                    open_files[path] = stack.enter_context(_appearing(path, overwrite))
                files[source] = path
            open_files[files[source]].write(line + b"\n")
    return list(open_files)


def _lines_file(path: Path, lines: Iterable[bytes], overwrite: bool) -> Path:
    with _appearing(path, overwrite) as out:
        out.writelines(line + b"\n" for line in lines)
    return path


def _appearing(path: Path, overwrite: bool) -> AbstractContextManager[IO[bytes]]:
    """A file that stands under its name only when it is complete."""
    _check_free(path, overwrite)
    return appearing(path, path.with_name(f".{path.name}.incoming"))


def _check_free(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists already", "Choose another folder, or say --overwrite")
