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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import orjson

from pipeline.errors import Trouble, UserError
from pipeline.recipe import models
from pipeline.store.commit import Manifest
from pipeline.store.named import run_output
from pipeline.store.objects import Store
from pipeline.store.probe import open_store
from pipeline.store.progress import read_metrics
from pipeline.store.runs import RunLock
from pipeline.store.shards import Part, file_sha256
from pipeline.store.stage import Rows, check_gate
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
    manifest = require_done(store, lock, stage)
    main = next(iter(declared))
    if output in (None, main):
        check_gate(lock, stage, manifest)
    wanted = [output] if output else [name for name in declared if manifest.outputs.get(name)]
    folder.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    for name in wanted:
        made += _one_output(store, lock, stage, manifest, name, folder, overwrite)
    if lock.stages[stage].kind == "train" and output in (None, main):
        made.append(_metrics(store, lock, stage, folder, overwrite))
    made.append(_provenance(lock, stage, manifest, folder))
    return sorted(made)


def part_urls(place: str, store: str = "") -> list[str]:
    """The URLs of the parts of `RUN:STAGE` or `RUN:STAGE/OUTPUT` in their order, as DuckDB and datasets open them.

    `store`: its URL, by default HANFORGE_STORE. Raises what `export` raises.
    Example: duckdb.sql("SELECT source, count(*) FROM read_json(?) GROUP BY 1", params=[part_urls("latest:prepare")])
    """
    opened = open_store(store or os.environ.get("HANFORGE_STORE", ""))
    named = run_output(opened, place, place)
    return [file.url for file in Rows(opened, place, named.parts).files()]


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
        return _named_files(store, parts, folder / FOLDER if is_checkpoint else folder, overwrite)
    rows = Rows(store, stage, tuple(parts))
    kind, name = lock.stages[stage].kind, base_name(lock.recipe, stage)
    if output == "rows" and kind in BY_SOURCE:
        return _by_source(rows, folder, BY_SOURCE[kind], overwrite)
    if output == "rows":
        return [_rows_file(rows, folder / f"{name}_korean_{rows.total}samples.jsonl", overwrite)]
    if output == "heldout":
        return [_rows_file(rows, folder / f"{name}_heldout_{rows.total}samples.jsonl", overwrite)]
    return [_rows_file(rows, folder / f"{name}_{output}.jsonl", overwrite)]


def _named_files(store: Store, parts: list[Part], target: Path, overwrite: bool) -> list[Path]:
    """Download the files of a folder output; the folder appears whole."""
    needed, free = sum(part.bytes for part in parts), shutil.disk_usage(_existing(target)).free
    if needed > free:
        raise UserError(
            f"{needed / 2**30:.1f} GiB do not fit {target}: {free / 2**30:.1f} GiB are free", "Free disk space"
        )
    incoming = target.with_name(f".{target.name}.incoming")
    shutil.rmtree(incoming, ignore_errors=True)
    for part in parts:
        local = incoming / part.name
        store.download(part.key, local)
        if file_sha256(local) != part.sha256:
            raise Trouble(f"{store.url}/{part.key} is not what its manifest says", "Run the export again")
    if target.name != FOLDER:  # single files beside others: scores.json and the like
        for part in parts:
            _check_free(target / part.name, overwrite)
            (incoming / part.name).replace(target / part.name)
        shutil.rmtree(incoming)
        return [target / part.name for part in parts]
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


def _rows_file(rows: Rows, path: Path, overwrite: bool) -> Path:
    with _appearing(path, overwrite) as out:
        for line in rows.lines():
            out.write(line + b"\n")
    return path


def _metrics(store: Store, lock: RunLock, stage: str, folder: Path, overwrite: bool) -> Path:
    path = folder / "metrics.jsonl"
    with _appearing(path, overwrite) as out:
        for record in read_metrics(lock.directory(store, stage)):
            out.write(orjson.dumps(record) + b"\n")
    return path


def _provenance(lock: RunLock, stage: str, manifest: Manifest, folder: Path) -> Path:
    path = folder / f"{stage}.manifest.json"
    document = {"run": lock.run_id, "stage": stage, **manifest.raw}
    with _appearing(path, overwrite=True) as out:
        out.write(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    return path


@contextmanager
def _appearing(path: Path, overwrite: bool) -> Iterator[IO[bytes]]:
    """A file that stands under its name only when it is complete."""
    _check_free(path, overwrite)
    incoming = path.with_name(f".{path.name}.incoming")
    try:
        with incoming.open("wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        incoming.replace(path)
    finally:
        incoming.unlink(missing_ok=True)


def _check_free(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists already", "Choose another folder, or say --overwrite")


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)
