"""External files are read as they were when the run was locked, or not at all: workers would see different things."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.store.inputs import MissingInput
from pipeline.store.objects import Store
from pipeline.store.pins import small_file
from pipeline.store.stage import Stage
from tests.engine.tiny import bare_checkpoint
from tests.store import world
from tests.teacher.runs import augment_settings, locked, prepared_rows


@pytest.mark.parametrize("kind", ["prepare", "augment", "validate", "evaluate"])
def test_a_file_that_changed_since_the_lock_is_refused(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\n".join(prepared_rows(8)))
    settings: dict[str, Any] = {"kind": kind, "source": str(file)}
    if kind == "augment":
        settings = augment_settings(source=str(file))
    if kind == "evaluate":
        settings = {"kind": kind, "data": str(file), "model": str(bare_checkpoint(tmp_path / "model"))}
    store = Store(f"file://{tmp_path / 'store'}")
    stage = Stage(store, locked(store, {"it": settings}), "it")
    file.write_bytes(file.read_bytes().replace(b"7", b"8"))  # the same size
    with pytest.raises(UserError, match="changed since the run was locked"):
        importlib.import_module(f"jobs.{kind}").run(stage)
    assert stage.directory.manifest() is None


def test_a_file_that_has_gone_since_is_named_and_a_look_at_the_base_finds_nothing(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path / 'store'}")
    lock = world.locked(store, tmp_path)
    assert small_file(store, lock, str(tmp_path / "base"), "config.json") == b"{}"
    (tmp_path / "base" / "config.json").unlink()
    assert small_file(store, lock, str(tmp_path / "base"), "config.json") is None
    with pytest.raises(MissingInput, match="config.json is not there any more"):
        lock.source(str(tmp_path / "base")).files[0].open()
