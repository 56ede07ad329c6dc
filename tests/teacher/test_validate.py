"""validate on a real store: rows, rejects, measurements, and a gate that is judged again by whoever reads."""

import gzip
from pathlib import Path
from typing import Any

import orjson
import pytest

from pipeline.errors import GateRefused, UserError
from pipeline.store.commit import Counts, Manifest
from pipeline.store.objects import Store
from pipeline.store.stage import Stage
from pipeline.teacher.settings import ValidateSettings
from pipeline.teacher.show import summary
from tests.teacher.runs import locked, output, prepared_row, run, with_prepared

SOUND = "<think>\n1단계: 두 수를 더합니다.\n2단계: 합을 확인합니다.\n</think>\n\n정답: 7"


def row(number: int, answer: str, source: str = "maths") -> bytes:
    value = prepared_row(number, source)
    value["messages"][-1]["content"] = answer
    return orjson.dumps(value)


def rows(good: int, bad: int) -> list[bytes]:
    return [row(n, SOUND) for n in range(good)] + [row(good + n, "정답: 7", "chat") for n in range(bad)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"file://{tmp_path / 'store'}")


def validate_settings(**changes: Any) -> dict[str, Any]:
    return {"kind": "validate", "source": {"stage": "prepare"}, "num_samples": 0, **changes}


def validated(store: Store, lines: list[bytes], index: int = 0, of: int = 1, **changes: Any) -> Stage:
    stage = Stage(store, with_prepared(store, lines, {"validate": validate_settings(**changes)}), "validate", index, of)
    run(stage)
    return stage


def test_rows_that_pass_keep_their_bytes_and_the_rest_have_reasons(store: Store) -> None:
    lines = rows(9, 3)
    stage = validated(store, lines)
    manifest = stage.directory.manifest()
    assert manifest is not None
    assert manifest.counts.plain() == {"planned": 12, "ok": 9, "rejected": {"no_thinking": 3}, "failed": {}}
    assert [orjson.dumps(value) for value in output(stage)] == lines[:9]
    reject = output(stage, "rejects")[0]
    assert reject["origin"] == "chat.jsonl:9" and reject["line"].encode() == lines[9]
    assert manifest.measurements["counts"] == {
        "passed": 9, "tagged": 9, "chinese": 0, "stepped": 9, "answered": 12, "looping": 0, "truncated": 0,
    }  # fmt: skip
    assert manifest.measurements["sources"] == {
        "chat": {"checked": 3, "no_thinking": 3, "passed": 0}, "maths": {"checked": 9, "passed": 9},
    }  # fmt: skip


def test_the_gate_names_the_limit_and_the_distance_and_a_changed_limit_needs_no_new_work(store: Store) -> None:
    lines = rows(7, 3)
    stage = validated(store, lines)
    strict = Stage(store, with_prepared(store, lines, {"validate": validate_settings()}), "validate")
    manifest = stage.directory.manifest()
    assert manifest is not None
    assert strict.settings.refusals(manifest.measurements) == [
        "min_pass_rate 0.8 is missed by 0.100: 7 of 10 rows passed every check (0.700)"
    ]
    lenient = with_prepared(store, lines, {"validate": validate_settings(limits={"min_pass_rate": 0.5})})
    again = Stage(store, lenient, "validate")
    assert again.fingerprint == stage.fingerprint and not again.settings.refusals(manifest.measurements)


def test_who_reads_past_a_refused_gate_is_refused(store: Store) -> None:
    reader = {"kind": "validate", "source": {"stage": "validate"}}
    lock = with_prepared(store, rows(7, 3), {"validate": validate_settings(), "reader": reader})
    run(Stage(store, lock, "validate"))
    with pytest.raises(GateRefused, match=r"min_pass_rate 0\.8 is missed by 0\.100"):
        run(Stage(store, lock, "reader"))


def test_limits_by_source(store: Store) -> None:
    stage = validated(store, rows(18, 2), limits={"min_source_pass_rate": 0.5, "max_chinese_rate": 0.0})
    manifest = stage.directory.manifest()
    assert manifest is not None
    assert stage.settings.refusals(manifest.measurements) == [
        "min_source_pass_rate 0.5 is missed by 0.500 in source 'chat': 0 of 2 rows passed (0.000)"
    ]


def test_workers_change_no_byte(tmp_path: Path) -> None:
    lines = rows(30, 5)
    one = validated(Store(f"file://{tmp_path / 'a'}"), lines).directory.manifest()
    two = validated(Store(f"file://{tmp_path / 'b'}"), lines, index=1, of=2).directory.manifest()
    assert one is not None and two is not None
    assert (one.content("rows"), one.measurements) == (two.content("rows"), two.measurements)


def test_a_folder_of_plain_files_is_checked_too(tmp_path: Path, store: Store) -> None:
    folder = tmp_path / "cot"
    folder.mkdir()
    turns = [{"role": "user", "content": "질문"}, {"role": "assistant", "content": SOUND}]
    good = orjson.dumps({"messages": turns})
    (folder / "orca_cot_augmented.jsonl").write_bytes(b"\n".join([good, b"{broken", b"\xff\xfe", b"", good]) + b"\n")
    (folder / "wiki.jsonl.gz").write_bytes(gzip.compress(good + b"\n"))
    lock = locked(store, {"validate": validate_settings(source=str(folder))})
    stage = Stage(store, lock, "validate")
    run(stage)
    assert [(value["source"], value["origin"]) for value in output(stage)] == [
        ("orca_cot_augmented", "orca_cot_augmented.jsonl:1"),
        ("orca_cot_augmented", "orca_cot_augmented.jsonl:5"),
        ("wiki", "wiki.jsonl:1"),
    ]
    assert [(value["reason"], value["origin"]) for value in output(stage, "rejects")] == [
        ("broken_json", "orca_cot_augmented.jsonl:2"),
        ("not_utf8", "orca_cot_augmented.jsonl:3"),
    ]
    assert output(stage, "rejects")[1]["encoding"] == "base64"


def test_a_set_without_a_single_row_is_the_users_to_mend(store: Store) -> None:
    with pytest.raises(UserError, match="none of 3 rows passed: no_thinking 3"):
        validated(store, rows(0, 3))


def test_samples_and_the_table_are_printed(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    long = SOUND.replace("확인합니다.", "확인합니다. " + " ".join(f"그리고 {n}번째로 살펴봅니다." for n in range(60)))
    lines = [row(n, long) for n in range(40)] + rows(0, 2)
    validated(store, lines, num_samples=4)
    shown = capsys.readouterr().out
    assert "4 of 4" in shown and "more characters (--show-full)" in shown and "no_thinking" in shown
    assert "maths" in shown and "95.2%" in shown
    assert "그리고 59번째로" not in shown
    counts = dict.fromkeys(("passed", "tagged", "chinese", "stepped", "answered", "looping", "truncated"), 1)
    measured = {"checked": 1, "counts": counts, "sources": {"a\nb\x1b[2J": {"checked": 1, "passed": 1}}}
    settings = ValidateSettings(**validate_settings())
    assert "a b\\x1b[2J " in summary(settings, Manifest({}, Counts(), measured, {}))
    validated(store, lines, num_samples=4, show_full=True, rerun=1)
    assert "그리고 59번째로" in "".join(capsys.readouterr().out.split("\n"))


def test_a_file_that_is_cut_off_is_named(tmp_path: Path, store: Store) -> None:
    packed = gzip.compress(b"".join(row(n, SOUND) + b"\n" for n in range(200)))
    (tmp_path / "cot.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    lock = locked(store, {"validate": validate_settings(source=str(tmp_path / "cot.jsonl.gz"))})
    with pytest.raises(UserError, match=r"cot\.jsonl\.gz: cannot be unpacked"):
        run(Stage(store, lock, "validate"))
    assert Stage(store, lock, "validate").directory.manifest() is None
