"""Export: human names, the rows' own bytes, nothing half-written, nothing overwritten by surprise."""

from pathlib import Path

import orjson
import pytest

from pipeline.errors import Trouble, UserError
from pipeline.recipe.load import load_recipe
from pipeline.store.commit import Counts
from pipeline.store.export import base_name, export
from pipeline.store.objects import Store
from pipeline.store.progress import MetricsWriter
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


@pytest.mark.parametrize(("stage", "ending"), [("augment", "cot_augmented"), ("validate", "cot_validated")])
def test_reasoning_rows_are_split_by_source_in_their_order(tmp_path: Path, stage: str, ending: str) -> None:
    store = Store(str(tmp_path / "store"))
    lock = locked(store, tmp_path)
    sources = ("orca_math_ko", "won/../instruct", "won:..:instruct")
    mixed = [line for lines in zip(*(rows(5, source) for source in sources), strict=True) for line in lines]
    finish_rows(store, lock, stage, mixed, [b'{"reason":"chinese"}'], checked=16, counts={"passed": 15})
    made = export(store, lock, stage, tmp_path / "out")
    content = {path.name: path.read_bytes().splitlines() for path in made}
    both = zip(rows(5, sources[1]), rows(5, sources[2]), strict=True)
    assert content.pop(f"{stage}.manifest.json")
    assert content == {
        f"{stage}_rejects.jsonl": [b'{"reason":"chinese"}'],
        f"orca_math_ko_{ending}.jsonl": rows(5, "orca_math_ko"),
        f"won_.._instruct_{ending}.jsonl": [line for lines in both for line in lines],
    }


def test_the_held_out_rows_have_their_own_name(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    lock = locked(store, tmp_path)
    directory = lock.directory(store, "prepare_phase1")
    with directory.write_rows("0", "heldout") as writer:
        writer.write(rows(1)[0])
    directory.commit_unit("0", {"heldout": [writer.committed()]}, Counts(1, 1))
    directory.commit_manifest(["0"])
    names = [path.name for path in export(store, lock, "prepare_phase1", tmp_path / "out", "heldout")]
    assert names == ["phase1_heldout_1samples.jsonl", "prepare_phase1.manifest.json"]


def test_the_shipped_recipe_exports_under_the_names_that_its_user_gave() -> None:
    recipe = load_recipe("korean-vla")
    assert base_name(recipe, "prepare_phase1") == "phase1"
    assert recipe.stages["prepare_phase1"].target_samples == 256_000  # phase1_korean_256000samples.jsonl
    assert base_name(load_recipe("multiturn-14b"), "prepare") == "multiturn_14b"
