"""The data pages: lengths against max_length, duplicates, refused rows, the teacher, rows before and after."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.reporting.charts import bar_chart
from pipeline.reporting.data import StageData, teaching
from pipeline.reporting.gather import Report, gather
from pipeline.reporting.lengths import histogram, quantile
from pipeline.reporting.page import page
from pipeline.reporting.rejections import rejections
from pipeline.reporting.rows import OutputRows
from pipeline.reporting.texts import TEXTS
from pipeline.store.commit import Counts, StageDirectory
from pipeline.store.objects import Store
from pipeline.store.pins import resolve
from pipeline.store.runs import RunLock, create_run
from tests.reporting.chain import HOSTILE, RECIPE, build, do, new_run
from tests.reporting.test_report import outline


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, RunLock, Report]:
    recipe = RECIPE.replace("learning_rate: 2e-5", "learning_rate: 2e-5, max_length: 30")
    store, lock = new_run(tmp_path_factory.mktemp("data"), recipe)
    for name in ("prepare", "augment", "validate"):
        do(store, lock, name)
    return store, lock, gather(store, lock)


def data_of(report: Report, name: str) -> StageData:
    found = next(stage.data for stage in report.stages if stage.status.name == name)
    assert found is not None
    return found


def kept(store: Store, lock: RunLock, stage: str) -> list[dict[str, Any]]:
    from pipeline.reporting.rows import output_rows

    return [orjson.loads(line) for line in output_rows(store, lock, stage).lines()]


def write(store: Store, name: str, lines: list[bytes]) -> OutputRows:
    directory = StageDirectory(store, "prepare", name)
    with directory.write_rows(name) as writer:
        for line in lines:
            writer.write(line)
    return OutputRows(store, (writer.committed(),), True)


def test_tokens_are_those_of_the_student_and_not_cut_by_its_tokenizer(made: tuple[Store, RunLock, Report]) -> None:
    from tokenizers import pre_tokenizers

    store, lock, report = made
    found = data_of(report, "prepare").lengths
    assert found is not None and found.tokens is not None and found.tokenizer == "base"
    split = pre_tokenizers.Whitespace().pre_tokenize_str
    rows = kept(store, lock, "prepare")
    tokens = [sum(len(split(turn["content"])) for turn in row["messages"]) for row in rows]
    assert found.sampled == found.total == len(rows) == sum(count for _, count in found.tokens.bins)
    assert (found.tokens.median, found.tokens.largest) == (quantile(tokens, 0.5), max(tokens))
    over = {limit.stage: (limit.max_length, limit.over) for limit in found.limits}
    assert over == {"phase1": (30, sum(number > 30 for number in tokens) / len(tokens))} and 0 < over["phase1"][1] < 1
    sizes = Counter(row["source"] for row in rows)
    assert {one.source: one.rows for one in found.sources} == sizes


def test_a_set_is_measured_against_the_training_behind_its_validation(made: tuple[Store, RunLock, Report]) -> None:
    found = {name: data_of(made[2], name).lengths for name in ("augment", "validate")}
    assert all(one and [limit.stage for limit in one.limits] == ["phase2"] for one in found.values())
    assert all(one and one.limits[0].max_length == 4096 and one.limits[0].over == 0 for one in found.values())


def test_without_a_tokenizer_there_are_characters_and_the_page_says_why(tmp_path: Path) -> None:
    store, lock = new_run(tmp_path)
    do(store, lock, "prepare")
    (tmp_path / "store/inputs/base/tokenizer.json").unlink()
    base = {**lock.inputs, "input:base": lock.inputs["input:base"].picked(["config.json"])}
    report = gather(store, RunLock(**{**vars(lock), "inputs": base}))
    found = data_of(report, "prepare").lengths
    assert found is not None and found.tokens is None and found.limits[0].over is None and found.characters.largest > 0
    assert TEXTS["no_tokenizer"].en in page(report)


@given(st.lists(st.integers(0, 1 << 20), min_size=1, max_size=200))
def test_every_length_lies_in_its_bin(values: list[int]) -> None:
    found = histogram(values)
    assert sum(count for _, count in found.bins) == len(values)
    for place, count in found.bins:
        low, high = found.edge(place - 1), found.edge(place)
        lowest = place == found.bins[0][0]
        inside = [value for value in values if (low * (1 + 1e-9) < value or lowest) and value <= high * (1 + 1e-9)]
        assert len(inside) == count
    assert found.median in values and min(values) <= found.median <= found.percentile_95 <= found.largest == max(values)


def test_bars_past_the_limit_stand_out_and_the_axis_reaches_it() -> None:
    found = histogram([100] * 5 + [300, 5000])
    drawn = str(bar_chart(found, [(4096, "max_length 4,096")], "tokens <b>"))
    assert drawn.count('class="past"') >= 1 and "max_length 4,096" in drawn and "<b>" not in drawn
    far = str(bar_chart(found, [(1 << 20, "far")], ""))
    assert 'class="past"' not in far and 'class="limit"' in far
    single = histogram([0])
    assert math.isfinite(single.edge(single.bins[0][0])) and "NaN" not in str(bar_chart(single, [], ""))


def test_each_reason_has_three_real_examples_as_text(made: tuple[Store, RunLock, Report]) -> None:
    _, _, report = made
    found = {one["reason"]: one for one in data_of(report, "prepare").rejections}
    assert {reason: one["rows"] for reason, one in found.items()} == {
        "duplicate": 5, "chinese": 4, "broken_json": 1, "not_utf8": 1
    }  # fmt: skip
    assert {reason: len(one["examples"]) for reason, one in found.items()} == {
        "duplicate": 3, "chinese": 3, "broken_json": 1, "not_utf8": 1
    }  # fmt: skip
    assert found["chinese"]["examples"][0]["turns"][0][0] == "user"
    assert (
        found["broken_json"]["examples"][0]["line"] == '{"messages": ['
        and not found["broken_json"]["examples"][0]["turns"]
    )
    assert found["not_utf8"]["examples"][0]["line"].startswith("\\xff\\xfe broken")
    assert "你好" in outline(page(report)).text["rows"]


def test_examples_of_rare_reasons_are_found_and_control_marks_are_not_kept(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    common = [orjson.dumps({"reason": "chinese", "origin": f"a:{n}", "line": "{}"}) for n in range(500)]
    turns = [{"role": "user", "content": f"\x1b[2J\u202e{HOSTILE}"}, {"role": "assistant", "content": "b" * 9000}]
    rare = orjson.dumps({"reason": "nul_character", "origin": "b:1", "line": json.dumps({"messages": turns})})
    rows = write(store, "x", [*common, rare])
    found = {one["reason"]: one for one in rejections(rows, {"chinese": 500, "nul_character": 1}, 1)}
    assert (
        len({example["origin"] for example in found["chinese"]["examples"]}) == 3 == len(found["chinese"]["examples"])
    )
    (_, asked), (_, answered) = found["nul_character"]["examples"][0]["turns"]
    assert asked == rf"\x1b[2J\u202e{HOSTILE}" and answered == "b" * 9000


def test_duplicates_and_rows_before_and_after_preparation(made: tuple[Store, RunLock, Report]) -> None:
    store, lock, report = made
    found = data_of(report, "prepare")
    assert found.duplicates == [{"source": "orca_math_ko", "rows": 5, "read": 50}]
    assert len(found.prepared) == 5 and {row["source"] for row in found.prepared} == {
        "orca_math_ko",
        "robot_qa",
        "talk",
    }
    by_id = {row["id"]: row for row in kept(store, lock, "prepare")}
    for row in found.prepared:
        assert row["turns"] == [(turn["role"], turn["content"]) for turn in by_id[row["id"]]["messages"]]
        assert row["turns"][0][0] == "system" and row["turns"][1][1] in json.loads(row["raw"])["messages"][0]["content"]


def test_raw_files_that_are_gone_leave_only_their_rows_out(tmp_path: Path) -> None:
    store, lock = build(tmp_path, "prepare")
    (tmp_path / "store/inputs/raw/talk.jsonl").unlink()
    assert data_of(gather(store, lock), "prepare").prepared == []


def test_the_teacher_is_told_with_tokens_latency_retries_and_sources(made: tuple[Store, RunLock, Report]) -> None:
    _, _, report = made
    found = data_of(report, "augment").teaching
    assert found is not None and found["seconds"] == {0.5: 1.0, 0.9: 2.0, 0.99: 16.0}
    assert [found[key] for key in ("outcomes", "failed", "retries", "completion_tokens")] == [30, 1, 3, 29 * 40]
    shown = outline(page(report)).text["rows"]
    assert "EXAONE-4.0-1.2B" in shown and "16.0 s" in shown and TEXTS["retries"].en in shown
    flow = next(stage.flow for stage in report.stages if stage.status.name == "augment")
    assert flow is not None and sum(source.kept for source in flow.sources) == flow.whole.kept == 28
    assert {segment.state for source in flow.sources for segment in source.segments} == {"kept", "rejected", "failed"}
    assert teaching("t", {}) is None and teaching("t", {"sample": {}}) is None


def test_a_running_stage_shows_what_it_has_committed(tmp_path: Path) -> None:
    store, lock = build(tmp_path, "prepare")
    assert next(stage.data for stage in gather(store, lock).stages if stage.status.name == "augment") is None
    directory = lock.directory(store, "augment")
    line = orjson.dumps({"messages": [{"role": "user", "content": "가나다"}], "source": "s", "id": "1"})
    with directory.write_rows("00000") as rows, directory.write_rows("00000", "rejects") as rejects:
        rows.write(line)
        rejects.write(b'{"reason":"truncated","line":"{}"}')
    parts = {"rows": [rows.committed()], "rejects": [rejects.committed()]}
    directory.commit_unit("00000", parts, Counts(2, 1, {"truncated": 1}))
    found = data_of(gather(store, lock), "augment")
    assert found.lengths is not None and found.lengths.total == 1 and found.lengths.characters.largest == 3
    assert [(one["reason"], len(one["examples"])) for one in found.rejections] == [("truncated", 1)]


class Counted(Store):
    """A store that counts what is read from it."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.reads: Counter[str] = Counter()

    def read(self, key: str) -> bytes:
        self.reads[key] += 1
        return super().read(key)


def test_the_done_markers_of_a_running_stage_are_read_once(tmp_path: Path) -> None:
    store, lock = build(tmp_path, "prepare")
    directory = lock.directory(store, "augment")
    for number in range(5):
        with directory.write_rows(f"{number:05d}") as rows:
            rows.write(orjson.dumps({"messages": [], "source": "s", "id": str(number)}))
        directory.commit_unit(f"{number:05d}", {"rows": [rows.committed()]}, Counts(1, 1))
    counted = Counted(store.url)
    found = data_of(gather(counted, lock), "augment").lengths
    assert found is not None and found.total == 5
    markers = [key for key in counted.reads if "/done/" in key]
    assert len(markers) == 5 and all(counted.reads[key] == 1 for key in markers)


def test_long_texts_are_cut_so_that_the_page_stays_small(tmp_path: Path) -> None:
    store, lock = new_run(tmp_path, RECIPE.replace("sample_ratio: 0.5", "sample_ratio: 1.0"))
    path = tmp_path / "store/inputs/raw/talk.jsonl"
    long = f"{HOSTILE} 길고 긴 글 " * 400
    turns = [[{"role": "user", "content": f"{n} {long}"}, {"role": "assistant", "content": long}] for n in range(60)]
    path.write_bytes(b"\n".join(orjson.dumps({"messages": one, "source": "talk"}) for one in turns))
    from pipeline.recipe.load import load_recipe

    lock = create_run(
        store, resolve(store, load_recipe(str(tmp_path / "recipe.yaml"), sets=["augment.sample_ratio=1"]))
    )
    for name in ("prepare", "augment", "validate"):
        do(store, lock, name)
    html = page(gather(store, lock))
    assert 400_000 < len(html.encode()) < 1_050_000 and "… (+" in html


def test_the_twin_has_figures_and_no_texts(made: tuple[Store, RunLock, Report]) -> None:
    twin = json.loads(json.dumps(made[2].plain()))["stages"]["prepare"]["data"]
    assert twin["lengths"]["limits"]["phase1"]["max_length"] == 30 and twin["rejections"]["chinese"] == 4
    assert "장애물" not in json.dumps(twin, ensure_ascii=False) and twin["teacher"] is None
