"""Export: human names, the rows' own bytes, nothing half-written, nothing overwritten by surprise."""

from pathlib import Path

import orjson
import pytest

from pipeline.errors import Trouble, UserError
from pipeline.store.export import _by_source, export
from pipeline.store.objects import Store
from pipeline.store.progress import MetricsWriter
from pipeline.store.stage import Rows
from tests.store.world import finish_files, finish_rows, locked, rows


def test_prepared_rows_and_rejects_get_stable_names_and_keep_their_bytes(store_url: str, tmp_path: Path) -> None:
    store = Store(store_url)
    lock = locked(store, tmp_path)
    finish_rows(store, lock, "prepare_phase1", rows(10), [b'{"reason":"chinese"}'])
    out = tmp_path / "out"
    made = export(store, lock, "prepare_phase1", out)
    assert [path.name for path in made] == [
        "phase1_korean_10samples.jsonl", "phase1_rejects.jsonl", "prepare_phase1.manifest.json",
    ]  # fmt: skip
    assert (out / "phase1_korean_10samples.jsonl").read_bytes() == b"\n".join(rows(10)) + b"\n"
    assert orjson.loads((out / "prepare_phase1.manifest.json").read_bytes())["run"] == lock.run_id
    assert {path.name for path in out.iterdir()} == {path.name for path in made}


def test_one_output_alone(store_url: str, tmp_path: Path) -> None:
    store = Store(store_url)
    lock = locked(store, tmp_path)
    finish_rows(store, lock, "prepare_phase1", rows(4), [b"{}"])
    made = export(store, lock, "prepare_phase1", tmp_path / "out", output="rejects")
    assert [path.name for path in made] == ["phase1_rejects.jsonl", "prepare_phase1.manifest.json"]
    with pytest.raises(UserError, match=r"no output 'reject'.*rejects"):
        export(store, lock, "prepare_phase1", tmp_path / "out", output="reject")


def test_an_adapter_and_a_model_become_a_folder_named_final(store_url: str, tmp_path: Path) -> None:
    store = Store(store_url)
    lock = locked(store, tmp_path)
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"w" * 1000, "deep/x.json": b"1"}
    finish_files(store, lock, "phase1", "adapter", files, tmp_path)
    metrics = MetricsWriter(lock.directory(store, "phase1"), "000-a")
    metrics.write({"step": 1, "loss": 2.5})
    metrics.flush()
    out = tmp_path / "out"
    names = [path.name for path in export(store, lock, "phase1", out)]
    assert names == ["final", "metrics.jsonl", "phase1.manifest.json"]
    final = out / "final"
    assert {p.relative_to(final).as_posix(): p.read_bytes() for p in final.rglob("*") if p.is_file()} == files
    assert orjson.loads((out / "metrics.jsonl").read_bytes())["loss"] == 2.5
    with pytest.raises(UserError, match="exists already"):
        export(store, lock, "phase1", out)
    assert len(export(store, lock, "phase1", out, overwrite=True)) == 3


def test_a_changed_object_is_not_exported(store_url: str, tmp_path: Path) -> None:
    store = Store(store_url)
    lock = locked(store, tmp_path)
    finish_files(store, lock, "phase1", "adapter", {"a.safetensors": b"w" * 1000}, tmp_path)
    manifest = lock.directory(store, "phase1").manifest()
    assert manifest is not None
    store.put(manifest.outputs["adapter"][0].key, b"w" * 999)
    with pytest.raises(Trouble, match="is not what its manifest says"):
        export(store, lock, "phase1", tmp_path / "out")
    assert not (tmp_path / "out" / "final").exists()


def test_a_stage_that_is_not_done_is_said_so(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    with pytest.raises(UserError, match=r"not done"):
        export(store, locked(store, tmp_path), "prepare_phase1", tmp_path / "out")


def test_augmented_rows_are_split_by_source_in_their_order(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    lock = locked(store, tmp_path)
    mixed = [line for pair in zip(rows(5, "orca_math_ko"), rows(5, "won/../instruct"), strict=True) for line in pair]
    finish_rows(store, lock, "prepare_phase1", mixed)
    manifest = lock.directory(store, "prepare_phase1").manifest()
    assert manifest is not None
    parts = Rows(store, "augment", tuple(manifest.outputs["rows"]))
    made = _by_source(parts, tmp_path, "cot_augmented", overwrite=False)
    names = [path.name for path in made]
    assert names == ["orca_math_ko_cot_augmented.jsonl", "won_.._instruct_cot_augmented.jsonl"]
    assert (tmp_path / made[0].name).read_bytes() == b"\n".join(rows(5, "orca_math_ko")) + b"\n"
