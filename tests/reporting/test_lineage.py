"""Lineage: from a model back to the raw lines, with identities of everything between."""

import gzip
import io
import json
from pathlib import Path

import orjson
import pytest
import zstandard
from rich.console import Console

from pipeline.errors import UserError
from pipeline.recipe.load import load_recipe
from pipeline.reporting.lineage import lineage_of
from pipeline.reporting.lineage_tree import lineage_tree
from pipeline.reporting.raw import raw_lines
from pipeline.reporting.rows import output_rows
from pipeline.store.commit import Counts
from pipeline.store.named import named_model
from pipeline.store.objects import Store
from pipeline.store.pins import resolve
from pipeline.store.runs import RunLock
from tests.reporting.chain import build, new_run


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, RunLock]:
    return build(tmp_path_factory.mktemp("lineage"))


def test_a_promoted_model_is_followed_to_its_rows_files_base_and_teacher(done: tuple[Store, RunLock]) -> None:
    store, lock = done
    found = lineage_of(store, named_model(store, "promoted"))
    names = [stage["name"] for stage in found["stages"]]
    assert (
        set(names) == {"prepare", "augment", "validate", "phase1", "merge1", "phase2", "merge2"}
        and names[-1] == "merge2"
    )
    stages = {stage["name"]: stage for stage in found["stages"]}
    assert stages["augment"]["teacher"] == {"name": "EXAONE-4.0-1.2B", "identity": "input:0f3c"}
    data = next(read for read in stages["phase2"]["reads"] if read["setting"] == "data")
    assert data["rows"] == 25 and sum(sum(files.values()) for files in data["sources"].values()) == 25
    assert data["sources"]["robot_qa"] == {"robot_qa.jsonl": 11}
    assert data["identity"] == f"stage:{lock.stages['validate'].fingerprint}/rows"
    assert {one["name"] for one in found["inputs"]} == {"input:base", "input:raw", "input:teacher"}
    assert stages["phase1"]["code"] == [{"version": "0.1.0", "commit": "c0ffee" * 6 + "abcd"}]
    assert stages["phase1"]["settings"]["learning_rate"] == 2e-5 and "execution" in stages["phase1"]
    assert json.loads(json.dumps(found)) == found


def test_example_rows_come_with_their_raw_lines(done: tuple[Store, RunLock]) -> None:
    store, _ = done
    found = lineage_of(store, named_model(store, "latest:phase1"), examples=3)
    assert len(found["examples"]) == 3
    for example in found["examples"]:
        raw = orjson.loads(example["raw"])
        assert raw["messages"] == example["row"]["messages"][1:]  # the system turn was added by prepare
    assert lineage_of(store, named_model(store, "latest:phase1"), 3, seed=1)["examples"] != found["examples"]


def test_the_tree_shows_a_stage_once_and_every_leaf(done: tuple[Store, RunLock]) -> None:
    store, _ = done
    out = io.StringIO()
    Console(file=out, width=150).print(lineage_tree(lineage_of(store, named_model(store, "latest:merge2"), examples=1)))
    text = out.getvalue()
    assert text.count("target_samples 60") == 1 and "(above)" in text
    for leaf in (
        "orca_math_ko.jsonl",
        "input teacher",
        "25 rows of validate",
        "hanforge 0.1.0 at c0ffeec0ffee",
        "raw line ",
    ):
        assert leaf in text


def test_a_folder_has_its_files_alone(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    store = Store(str(tmp_path / "store"))
    found = lineage_of(store, named_model(store, str(tmp_path / "model")))
    assert found["run"] is None and found["files"][0]["name"] == "config.json" and found["stages"] == []
    out = io.StringIO()
    Console(file=out, width=100).print(lineage_tree(found))
    assert "no run of this store made it" in out.getvalue()


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_raw_lines_are_found_in_any_file_and_unknown_origins_are_left_out(tmp_path: Path, ending: str) -> None:
    new_run(tmp_path)
    plain = tmp_path / "store/inputs/raw/robot_qa.jsonl"
    content = plain.read_bytes()
    plain.unlink()
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}[ending]
    (plain.parent / f"robot_qa.jsonl{ending}").write_bytes(pack(content))
    store = Store(str(tmp_path / "store"))
    lock = resolve(store, load_recipe(str(tmp_path / "recipe.yaml")))
    found = raw_lines(lock, ["robot_qa.jsonl:3", "gone.jsonl:1", "talk.jsonl:9999"])
    assert found == {"robot_qa.jsonl:3": content.splitlines()[2]}


def test_rows_of_a_stage_that_still_runs_are_those_committed(tmp_path: Path) -> None:
    store, lock = new_run(tmp_path)
    directory = lock.directory(store, "prepare")
    with pytest.raises(UserError, match="has no rows yet"):
        output_rows(store, lock, "prepare")
    with directory.write_rows("rows-00000") as writer:
        writer.write(b'{"id": "a"}')
        writer.write(b'{"id": "b"}')
    directory.commit_unit("rows-00000", {"rows": [writer.committed()]}, Counts(2, 2))
    rows = output_rows(store, lock, "prepare")
    assert not rows.whole and rows.total == 2 and [row["id"] for row in rows.sample(5, 0)] == ["a", "b"]
    with pytest.raises(UserError, match="did you mean 'rejects'"):
        output_rows(store, lock, "prepare", "reject")
    with pytest.raises(UserError, match="writes no rows"):
        output_rows(store, lock, "merge1")
