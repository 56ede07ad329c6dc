"""Real runs for the tests of merge, evaluate and promote: a recipe as a dict, locked in a real store."""

from pathlib import Path
from typing import Any

from pipeline.recipe.load import Document, validated
from pipeline.store.commit import Counts
from pipeline.store.objects import Store
from pipeline.store.pins import resolve
from pipeline.store.runs import RunLock, create_run
from pipeline.store.stage import Stage


def locked(store: Store, stages: dict[str, dict[str, Any]], name: str = "test") -> RunLock:
    """A run of a recipe with these stages."""
    recipe = validated(Document({"name": name, "stages": stages}, {(): "test.yaml"}))
    return create_run(store, resolve(store, recipe))


def commit_folder(store: Store, lock: RunLock, stage: str, output: str, folder: Path) -> None:
    """Finish a stage by hand: its output is a folder that a test made."""
    directory = lock.directory(store, stage)
    directory.plan(lambda: {"units": ["all"]})
    parts = directory.write_directory("all", folder)
    directory.commit_unit("all", {output: parts}, Counts())
    directory.commit_manifest(["all"])


def commit_rows(store: Store, lock: RunLock, stage: str, output: str, lines: list[bytes]) -> None:
    """Finish a stage by hand: its output is these rows."""
    directory = lock.directory(store, stage)
    directory.plan(lambda: {"units": ["all"]})
    with directory.write_rows("all", output) as writer:
        for line in lines:
            writer.write(line)
    directory.commit_unit("all", {output: [writer.committed()]}, Counts(len(lines), len(lines)))
    directory.commit_manifest(["all"])


def run(stage: Stage) -> None:
    """What the stage's process does, without its exit code."""
    import importlib

    module = importlib.import_module(f"jobs.{stage.settings.kind}")
    module.preflight(stage)
    module.run(stage)
