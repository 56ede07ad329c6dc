"""A small recipe whose stages a test finishes by hand, through the real commit protocol."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from pipeline.recipe.load import load_recipe
from pipeline.store.commit import Counts
from pipeline.store.objects import Store
from pipeline.store.pins import resolve
from pipeline.store.runs import RunLock, create_run

RECIPE = """\
name: tiny
inputs: {raw: {}}
stages:
  prepare_phase1: {kind: prepare, source: {input: raw}}
  phase1: {kind: train, base: BASE, data: {stage: prepare_phase1}}
  merge1: {kind: merge, base: BASE, adapter: {stage: phase1}}
  augment: {kind: augment, source: {stage: prepare_phase1}, teacher: {served_model_name: t}}
  validate: {kind: validate, source: {stage: augment}}
"""


def locked(store: Store, folder: Path, *sets: str) -> RunLock:
    """A run of the recipe; each different `sets` is another run."""
    base = folder / "base"
    base.mkdir(exist_ok=True)
    (base / "config.json").write_text("{}")
    store.put("inputs/raw/a.jsonl", b'{"messages": []}\n')
    recipe = folder / "tiny.yaml"
    recipe.write_text(RECIPE.replace("BASE", str(base)))
    return create_run(store, resolve(store, load_recipe(str(recipe), sets=list(sets))))


def rows(count: int, source: str = "kowiki") -> list[bytes]:
    """Prepared rows as JSONL lines."""
    return [orjson.dumps({"messages": [], "source": source, "id": f"{number:032x}"}) for number in range(count)]


def finish_rows(
    store: Store, lock: RunLock, stage: str, lines: list[bytes], rejects: Sequence[bytes] = (), **measured: Any
) -> None:
    """Commit a rows stage of two units."""
    directory = lock.directory(store, stage)
    units = [("0", lines[: len(lines) // 2]), ("1", lines[len(lines) // 2 :])]
    directory.plan(lambda: {"units": ["0", "1"]})
    for unit, mine in units:
        outputs = {}
        for output, content in (("rows", mine), ("rejects", rejects if unit == "0" else [])):
            if content:
                with directory.write_rows(unit, output) as writer:
                    for line in content:
                        writer.write(line)
                outputs[output] = [writer.committed()]
        rejected = {"chinese": len(rejects)} if rejects and unit == "0" else {}
        directory.commit_unit(unit, outputs, Counts(len(mine) + sum(rejected.values()), len(mine), rejected))
    directory.commit_manifest(["0", "1"], measured)


def finish_files(store: Store, lock: RunLock, stage: str, output: str, files: dict[str, bytes], folder: Path) -> None:
    """Commit a stage whose output is a folder of files."""
    local = folder / f"{stage}-{output}"
    for name, content in files.items():
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).write_bytes(content)
    directory = lock.directory(store, stage)
    directory.commit_unit("0", {output: directory.write_directory("0", local)}, Counts())
    directory.commit_manifest(["0"])
