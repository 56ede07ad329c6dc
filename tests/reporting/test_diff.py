"""What changed between two sets: every row of either side once, with its reason."""

import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from jobs.cli import app
from pipeline.errors import UserError
from pipeline.recipe.load import load_recipe
from pipeline.reporting.changes import RowSet, compare
from pipeline.reporting.diff import diff_of
from pipeline.reporting.rows import OutputRows
from pipeline.store.commit import StageDirectory
from pipeline.store.objects import Store
from pipeline.store.pins import resolve
from pipeline.store.runs import RunLock, create_run
from pipeline.text.examine import content_key
from tests.reporting.chain import build, do


def again(store: Store, folder: Path, *sets: str, stages: tuple[str, ...] = ("prepare",)) -> RunLock:
    """Another run of the recipe with other settings, its first stages done."""
    lock = create_run(store, resolve(store, load_recipe(str(folder / "recipe.yaml"), sets=list(sets))))
    for name in stages:
        do(store, lock, name)
    return lock


def output(store: Store, name: str, rows: list[dict[str, Any]]) -> OutputRows:
    """Rows as two parts of an output."""
    directory = StageDirectory(store, "prepare", name)
    parts = []
    for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
        with directory.write_rows(name) as writer:
            for row in half:
                writer.write(orjson.dumps(row))
        parts.append(writer.committed())
    return OutputRows(store, tuple(parts), True)


def row(key: str, text: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"messages": messages, "source": f"s{ord(key[0]) % 3}", "id": key, "origin": f"f.jsonl:{ord(key[0])}"}


Side = st.lists(st.tuples(st.sampled_from("abcdefghij"), st.sampled_from(["x", "y"])), max_size=14)


@settings(max_examples=30, deadline=None)
@given(a=Side, b=Side, rejected=st.sets(st.sampled_from("abcdefghij")))
def test_counts_equal_those_of_plain_counting(
    a: list[tuple[str, str]],
    b: list[tuple[str, str]],
    rejected: set[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("diff")
    store = Store(str(folder / "store"))
    rejects = [{"reason": f"r{key}", "origin": f"f.jsonl:{ord(key)}", "line": "{}"} for key in sorted(rejected)]
    side_a = RowSet(output(store, "a", [row(key, text) for key, text in a]))
    side_b = RowSet(output(store, "b", [row(key, text) for key, text in b]), (("", output(store, "c", rejects)),))
    found = compare(side_a, side_b, folder)
    ids_a, ids_b = Counter(key for key, _ in a), Counter(key for key, _ in b)
    pairs = [(ta, tb) for key in ids_a for ta, tb in zip(texts(a, key), texts(b, key), strict=False)]
    assert found.same == sum(one == two for one, two in pairs)
    assert sum(found.changed.values()) == sum(one != two for one, two in pairs)
    left = Counter({f"r{key}" if key in rejected else "not_sampled": 0 for key in ids_a})
    for key, count in (ids_a - ids_b).items():
        left[f"r{key}" if key in rejected else "not_sampled"] += count
    assert by_reason(found.left.counts) == +left
    assert sum(found.came.counts.values()) == (ids_b - ids_a).total()
    shutil.rmtree(folder)


def texts(rows: list[tuple[str, str]], key: str) -> list[str]:
    return [text for name, text in rows if name == key]


def by_reason(counts: dict[tuple[str, str], int]) -> Counter[str]:
    total: Counter[str] = Counter()
    for (_, reason), count in counts.items():
        total[reason] += count
    return total


def test_prepared_rows_that_leave_say_why_by_source(tmp_path: Path) -> None:
    store, lock = build(tmp_path, "prepare")
    other = again(
        store, tmp_path, "prepare.target_samples=40", "prepare.sources.exclude=[talk]", "prepare.heldout=null"
    )
    found = diff_of(store, lock.run_id, f"{other.run_id}:prepare", "prepare")
    assert [found[side]["rows"] for side in ("a", "b")] == [60, 40] and found["rows"]["changed"] == 0
    assert found["rows"]["same"] + found["rows"]["left"] == 60 and found["rows"]["same"] + found["rows"]["came"] == 40
    assert set(found["left"]["reasons"]) == {"not_sampled", "source_excluded"}
    assert found["left"]["sources"]["talk"] == {"source_excluded": found["left"]["reasons"]["source_excluded"]}
    assert set(found["came"]["reasons"]) <= {"heldout", "not_sampled"}
    changed = {entry["setting"]: (entry["a"], entry["b"]) for entry in found["settings"]}
    assert changed["target_samples"] == (60, 40) and changed["sources.exclude"] == ([], ["talk"])
    assert all(example["question"] for example in found["left"]["examples"])


def test_a_new_system_prompt_changes_every_row_and_moves_none(tmp_path: Path) -> None:
    store, lock = build(tmp_path, "prepare")
    other = again(store, tmp_path, "prepare.system_prompt.text=다른 말")
    found = diff_of(store, lock.run_id, other.run_id)
    assert {**found["rows"]} == {"a": 60, "b": 60, "same": 0, "changed": 60, "left": 0, "came": 0}
    example = found["changed"]["examples"][0]
    assert example["turn"] == 0 and example["a"]["text"].startswith("당신은") and example["b"]["text"] == "다른 말"


def test_changed_and_missing_files_are_told_from_sampling(tmp_path: Path) -> None:
    store, lock = build(tmp_path, "prepare")
    raw = tmp_path / "store/inputs/raw"
    (raw / "talk.jsonl").unlink()
    kept = (raw / "robot_qa.jsonl").read_bytes().splitlines(keepends=True)[::2]
    (raw / "robot_qa.jsonl").write_bytes(b"".join(kept))
    other = again(store, tmp_path, "prepare.target_samples=null")
    found = diff_of(store, lock.run_id, other.run_id)
    assert set(found["left"]["sources"]["talk"]) == {"file_absent"}
    assert "file_changed" in found["left"]["sources"]["robot_qa"]
    assert found["reads"][0]["files"] == ["robot_qa.jsonl", "talk.jsonl"]


def test_augmented_sets_tell_rejects_from_rows_that_were_never_asked_or_never_there(tmp_path: Path) -> None:
    store, lock = build(tmp_path, "augment")
    same_source = again(store, tmp_path, "augment.seed=7", stages=("prepare", "augment"))
    assert diff_of(store, lock.run_id, same_source.run_id)["rows"]["left"] == 0
    found = diff_of(store, f"{lock.run_id}:prepare", f"{lock.run_id}:augment")
    assert found["left"]["reasons"] == {"not_sampled": 30, "truncated": 1, "over_length": 1}
    assert found["rows"]["changed"] == 28 and "<think>" in found["changed"]["examples"][0]["b"]["text"]
    smaller = again(store, tmp_path, "prepare.target_samples=40", stages=("prepare", "augment"))
    moved = diff_of(store, lock.run_id, smaller.run_id, "augment")
    assert set(moved["left"]["reasons"]) <= {"truncated", "over_length", "not_sampled", "not_in_source"}
    assert moved["left"]["reasons"]["not_in_source"]


def test_equal_fingerprints_need_no_reading_and_other_stages_are_refused(tmp_path: Path) -> None:
    store, lock = build(tmp_path, "phase1")
    assert diff_of(store, lock.run_id, "latest")["rows"]["same"] == 60
    with pytest.raises(UserError, match="makes no set of rows"):
        diff_of(store, lock.run_id, "latest", "phase1")
    with pytest.raises(UserError, match="is not done"):
        diff_of(store, f"{again(store, tmp_path, 'prepare.seed=9', stages=()).run_id}:prepare", lock.run_id)


def test_a_row_of_an_upstream_stage_is_found_by_the_id_in_its_rejected_line(tmp_path: Path) -> None:
    turns = [("user", "가"), ("assistant", "나")]
    messages = [{"role": role, "content": text} for role, text in turns]
    key = content_key(turns).hex()
    upstream = {"messages": messages, "source": "s", "id": key, "origin": "a.jsonl:5"}
    reject = {"reason": "too_many_chars", "origin": "00000-rows.jsonl:1", "line": orjson.dumps(upstream).decode()}
    store = Store(str(tmp_path / "store"))
    a = RowSet(output(store, "a", [upstream]))
    b = RowSet(output(store, "b", []), (("", output(store, "c", [reject])),))
    assert compare(a, b, tmp_path).left.counts == {("s", "too_many_chars"): 1}


def test_the_command_prints_tables_and_the_same_as_json(tmp_path: Path) -> None:
    store, lock = build(tmp_path, "prepare")
    other = again(store, tmp_path, "prepare.target_samples=40", "prepare.sources.exclude=[talk]")
    words = ["diff", lock.run_id, other.run_id, "--store", store.url]
    shown = CliRunner().invoke(app, words, catch_exceptions=False, env={"COLUMNS": "150"})
    assert shown.exit_code == 0 and "source_excluded" in shown.output and "target_samples" in shown.output
    assert "\x1b" not in shown.output and "only in B" in shown.output
    document = json.loads(CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False).output)
    assert document["rows"]["a"] == 60 and set(document) >= {"a", "b", "settings", "reads", "left", "came", "changed"}
    same = CliRunner().invoke(app, ["diff", "latest", "latest", "--store", store.url], catch_exceptions=False)
    assert "the same fingerprint" in same.output


def test_examples_are_as_many_as_asked_for_and_the_places_are_those_of_the_rows(tmp_path: Path) -> None:
    store, chance = Store(str(tmp_path / "store")), random.Random(3)
    keys = [f"{chance.getrandbits(64):016x}" for _ in range(3000)]
    rows = [{"messages": [], "source": "s", "id": key, "origin": f"f:{n}"} for n, key in enumerate(keys, 1)]
    found = compare(RowSet(output(store, "a", rows[:2000])), RowSet(output(store, "b", rows[1000:])), tmp_path, 2)
    assert found.same == 1000 and by_reason(found.left.counts) == {"not_sampled": 1000}
    places = found.came.examples["not_sampled"]
    assert len(places) == 2 and min(places) >= 1000 - 1
