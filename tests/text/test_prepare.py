"""Prepare over real stores: what comes out, what is refused, and that nothing but the input decides the bytes."""

import base64
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Stopped, UserError
from pipeline.text import prepare, scan
from tests.servers.faulty_proxy import FaultyProxy
from tests.text.stages import chat, contents, jsonl, prepared, rows_of, stages, write_files

SYSTEM = "한국어로 답하세요."


def many(name: str, count: int, **more: Any) -> list[dict[str, Any]]:
    return [chat(f"{name} 질문 {n}", f"답은 {n * 7}입니다. " * (n % 5 + 1), **more) for n in range(count)]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Three sources with duplicates, Chinese, broken lines, compressed and plain."""
    kullm = [
        *many("구름", 300, source="kullm"),
        chat("구름 질문 3", "답은 21입니다. " * 4),
        chat("안녕", "今天天气很好"),
    ]
    multi = chat("가", "나")["messages"] + chat("다", "라")["messages"]
    files = {
        "kullm.jsonl": jsonl(*kullm, b"{broken", b"", b"\xff\xfe", {"messages": multi}),
        "smol.jsonl.gz": jsonl(*many("작은", 200)),
        "sub/won.jsonl.zst": jsonl(*many("원", 100), {"messages": []}, b"x" * 5000),
        "README.md": b"no rows",
    }
    return write_files(tmp_path / "raw", files)


SETTINGS: dict[str, Any] = {
    "target_samples": 400,
    "heldout": {"rows": 25},
    "shard_rows": 64,
    "system_prompt": {"text": SYSTEM},
    "max_row_bytes": 4096,
    "workers": 1,
}


def test_rows_rejects_and_heldout_account_for_every_line(store_url: str, raw: Path) -> None:
    stage, manifest = prepared(store_url, raw, **SETTINGS)
    rows, heldout = rows_of(stage, manifest), rows_of(stage, manifest, "heldout")
    assert (len(rows), len(heldout)) == (400, 25)
    assert manifest.counts.rejected == {
        "broken_json": 1, "chinese": 1, "duplicate": 1, "messages_empty": 1, "not_utf8": 1, "too_long_line": 1,
    }  # fmt: skip
    assert manifest.counts.balanced() and manifest.counts.planned == 400 + 25 + 6
    measured = manifest.measurements
    assert (measured["lines"], measured["blank_lines"], measured["rows_read"]) == (608, 1, 607)
    for funnel in measured["sources"].values():
        states = ("duplicates", "heldout", "not_sampled", "sampled")
        assert funnel["read"] == sum(funnel["rejected"].values()) + sum(funnel[state] for state in states)
    assert sum(funnel["sampled"] for funnel in measured["sources"].values()) == 400
    assert sum(measured["length_chars"]["rows"]) == 400 and sum(measured["turns"].values()) == 400
    assert {row["messages"][0]["content"] for row in rows} == {SYSTEM}
    assert list(rows[0]) == ["messages", "source", "id", "origin"]
    assert [row["origin"].split(":")[0] for row in rows] == sorted(row["origin"].split(":")[0] for row in rows)
    questions = [{row["messages"][1]["content"] for row in part} for part in (rows, heldout)]
    assert not questions[0] & questions[1]


def test_rejects_carry_the_original_line_and_its_place(tmp_path: Path, raw: Path) -> None:
    stage, manifest = prepared(f"{tmp_path}/store", raw, **SETTINGS)
    rejects = {row["reason"]: row for row in rows_of(stage, manifest, "rejects")}
    assert rejects["broken_json"]["line"] == "{broken" and rejects["broken_json"]["origin"] == "kullm.jsonl:303"
    assert rejects["not_utf8"]["origin"] == "kullm.jsonl:305" and rejects["not_utf8"]["encoding"] == "base64"
    assert base64.b64decode(rejects["not_utf8"]["line"]) == b"\xff\xfe"
    assert rejects["duplicate"]["detail"] == "the same turns as kullm.jsonl:4"
    assert "max_foreign" in rejects["chinese"]["detail"]
    assert rejects["messages_empty"]["detail"] == "0 turns"
    assert rejects["messages_empty"]["origin"] == "sub/won.jsonl:101"
    assert rejects["messages_empty"]["file"] == "sub/won.jsonl.zst"
    assert rejects["too_long_line"]["truncated"] and rejects["too_long_line"]["line"] == "x" * 4096


def test_the_bytes_depend_on_neither_workers_nor_units_nor_store(
    tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, one = prepared(f"{tmp_path}/one", raw, **SETTINGS)
    monkeypatch.setattr(prepare, "UNIT_BYTES", 3000)
    _, small = prepared(f"{tmp_path}/small", raw, **SETTINGS)
    _, two = prepared(f"{tmp_path}/two", raw, **{**SETTINGS, "workers": 2})
    assert contents(one) == contents(small) == contents(two)
    assert one.measurements == two.measurements
    moved = tmp_path / "moved"
    for path in sorted(raw.rglob("*.*"), reverse=True):
        target = moved / path.relative_to(raw)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    _, elsewhere = prepared(f"{tmp_path}/elsewhere", moved, **SETTINGS)
    assert contents(one) == contents(elsewhere)


def test_the_rows_depend_neither_on_compression_nor_on_pieces_nor_on_the_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"b": many("구름", 200, source="구름"), "a.b": many("작은", 150) + many("작은", 20), "a-b": many("원", 90)}
    lines = {name: jsonl(b"\xef\xbb\xbf", *rows, b"", b"{") for name, rows in files.items()}
    found = []
    for ending, settings in (("", {}), (".gz", {"workers": 2}), (".zst", {"workers": 8})):
        raw = write_files(tmp_path / f"raw{ending}", {f"{name}.jsonl{ending}": data for name, data in lines.items()})
        options = {"target_samples": 300, "heldout": {"rows": 20}, "shard_rows": 50, "workers": 1, **settings}
        for pieces in (1 << 18, 7) if options["workers"] == 1 else (1 << 18,):
            monkeypatch.setattr(scan, "PIECE_RECORDS", pieces)
            stage, manifest = prepared(f"{tmp_path}/store{ending}{pieces}", raw, **options)
            rejects = [{**row, "file": ""} for row in rows_of(stage, manifest, "rejects")]
            found.append((manifest.content("rows"), manifest.content("heldout"), rejects, manifest.measurements))
    assert all(one == found[0] for one in found[1:])


def test_s3_gives_the_same_bytes_even_when_answers_fail(
    tmp_path: Path, raw: Path, faulty_s3: FaultyProxy, faulty_s3_store_url: str
) -> None:
    _, local = prepared(f"{tmp_path}/store", raw, **SETTINGS)
    bucket = faulty_s3_store_url.removesuffix("/store")
    import s3fs

    faulty_s3.rate = 0.0
    s3fs.S3FileSystem().put(f"{raw}/", f"{bucket}/raw/", recursive=True)
    faulty_s3.rate = 0.05
    _, remote = prepared(faulty_s3_store_url, f"{bucket}/raw", **SETTINGS)
    assert contents(local) == contents(remote)


@pytest.mark.crash
def test_killed_at_any_instant_it_ends_with_the_same_bytes(tmp_path: Path, raw: Path) -> None:
    _, calm = prepared(f"{tmp_path}/calm", raw, **{**SETTINGS, "shard_rows": 16})
    stage = stages(f"{tmp_path}/killed", raw, prepare={**SETTINGS, "shard_rows": 16})["prepare"]
    rng, written = random.Random(7), 0
    for workers in (1, 2, 1):
        settings = json.dumps({**SETTINGS, "shard_rows": 16, "workers": workers})
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.text.run_prepare", stage.store.url, str(raw), settings]
        )
        written += rng.randint(5, 20)  # objects of the stage: journal, parts and done markers, about 90 in all
        while len(stage.store.list(stage.directory.prefix)) < written:
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(rng.random() * 0.02)
        process.kill()
        process.wait()
        written = len(stage.store.list(stage.directory.prefix))
    assert stage.directory.manifest() is None
    prepare.run(stage)
    manifest = stage.directory.manifest()
    assert manifest is not None and contents(calm) == contents(manifest)


def test_asked_to_stop_it_keeps_what_is_done(tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = stages(f"{tmp_path}/store", raw, prepare=SETTINGS)["prepare"]
    from pipeline.text import write

    def stop_after(writing: Any, unit: Any) -> int:
        if unit.name == "rows-00003":
            stage.stop.request()
        return write.write_unit(writing, unit)

    monkeypatch.setattr(prepare, "write_unit", stop_after)
    with pytest.raises(Stopped):
        prepare.run(stage)
    done = {name for name in stage.directory.done_names() if not name.startswith("rejects")}  # those come first
    assert done == {f"rows-{n:05d}" for n in range(4)}
    again = stages(f"{tmp_path}/store", raw, prepare=SETTINGS)["prepare"]
    prepare.run(again)
    _, calm = prepared(f"{tmp_path}/calm", raw, **SETTINGS)
    manifest = again.directory.manifest()
    assert manifest is not None and contents(manifest) == contents(calm)


def test_a_second_worker_finishes_what_the_first_left(tmp_path: Path, raw: Path) -> None:
    stage = stages(f"{tmp_path}/store", raw, prepare=SETTINGS)["prepare"]
    stage.index, stage.of = 1, 2
    prepare.run(stage)
    _, alone = prepared(f"{tmp_path}/alone", raw, **SETTINGS)
    manifest = stage.directory.manifest()
    assert manifest is not None and contents(manifest) == contents(alone)


def test_two_processes_at_once_adopt_each_other(tmp_path: Path, raw: Path) -> None:
    settings = {**SETTINGS, "shard_rows": 16}
    command = [sys.executable, "-m", "tests.text.run_prepare", f"{tmp_path}/both", str(raw), json.dumps(settings)]
    both = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    _, alone = prepared(f"{tmp_path}/alone", raw, **settings)
    manifest = stages(f"{tmp_path}/both", raw, prepare=settings)["prepare"].directory.manifest()
    assert manifest is not None and contents(manifest) == contents(alone)
    assert manifest.measurements == alone.measurements


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_samples": 5000}, r"target_samples is 5,000, but 6\d\d rows are left \(.*chinese 1"),
        ({"max_chars": 1}, "every row was rejected"),
        ({"heldout": {"rows": 5000}}, r"heldout\.rows is 5,000"),
        ({"sources": {"include": ["kulm"]}}, "did you mean 'kullm'"),
        ({"target_samples": 300, "sources": {"cap": {"kullm": 5, "smol": 5}}}, "target_samples is 300, but 1"),
    ],
)
def test_too_few_rows_are_refused_with_counts_and_nothing_is_committed(
    tmp_path: Path, raw: Path, settings: dict[str, Any], message: str
) -> None:
    stage = stages(f"{tmp_path}/store", raw, prepare=settings)["prepare"]
    with pytest.raises(UserError, match=message):
        prepare.run(stage)
    assert stage.directory.manifest() is None and not stage.directory.done_names()
    assert not stage.store.exists(stage.directory.key("plan.json"))


def test_sources_are_included_excluded_and_capped(tmp_path: Path, raw: Path) -> None:
    sources = {"exclude": ["smol"], "cap": {"kullm": 10}}
    stage, manifest = prepared(f"{tmp_path}/store", raw, sources=sources)
    found = [row["source"] for row in rows_of(stage, manifest)]
    assert {name: found.count(name) for name in sorted(set(found))} == {"kullm": 10, "won": 100}
    assert manifest.counts.rejected["source_excluded"] == 200
    only = prepared(f"{tmp_path}/only", raw, sources={"include": ["won"]})[1]
    assert only.counts.ok == 100


@pytest.mark.parametrize(
    ("prompt", "own", "none"),
    [
        ({"mode": "keep"}, "자기", None),
        ({"mode": "add", "text": SYSTEM}, "자기", SYSTEM),
        ({"mode": "replace", "text": SYSTEM}, SYSTEM, SYSTEM),
    ],
)
def test_system_prompts_are_kept_added_or_replaced(tmp_path: Path, prompt: Any, own: str, none: str | None) -> None:
    with_own = {"messages": [{"role": "system", "content": "자기"}, *chat("가", "나")["messages"]]}
    raw = write_files(tmp_path / "raw", {"a.jsonl": jsonl(with_own, chat("다", "라"))})
    rows = rows_of(*prepared(f"{tmp_path}/store", raw, system_prompt=prompt))
    systems = [[turn["content"] for turn in row["messages"] if turn["role"] == "system"] for row in rows]
    assert systems == [[own], [none] if none else []]


def test_a_set_without_overlap_holds_no_prompt_of_the_other(tmp_path: Path, raw: Path) -> None:
    both = stages(
        f"{tmp_path}/store",
        raw,
        first={"heldout": {"fraction": 0.2}},
        second={"exclude_overlap_with": [{"stage": "first", "output": "heldout"}]},
        third={"source": {"stage": "first", "output": "heldout"}, "system_prompt": {"text": SYSTEM}},
    )
    manifests = {}
    for name, stage in both.items():
        prepare.preflight(stage)
        prepare.run(stage)
        manifests[name] = stage.directory.manifest()
    heldout = rows_of(both["first"], manifests["first"], "heldout")
    second = rows_of(both["second"], manifests["second"])
    prompts = {row["messages"][0]["content"] for row in heldout}
    assert len(heldout) > 50 and not prompts & {row["messages"][0]["content"] for row in second}
    assert manifests["second"].counts.rejected["overlap"] == len(heldout) + 1  # and the duplicate of one of them
    third = rows_of(both["third"], manifests["third"])
    assert [row["origin"] for row in third] == [row["origin"] for row in heldout]
    assert [row["id"] for row in third] == [row["id"] for row in heldout]


def test_parquet_and_named_columns(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    raw = tmp_path / "raw"
    raw.mkdir()
    rows = [{"q": f"질문 {n}", "a": f"답 {n}", "kind": "won"} for n in range(50)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), raw / "train.parquet")
    columns = {"user": "q", "assistant": "a", "source": "kind"}
    stage, manifest = prepared(f"{tmp_path}/store", raw, columns=columns, target_samples=20)
    found = rows_of(stage, manifest)
    assert len(found) == 20 and {row["source"] for row in found} == {"won"}
    assert found[0]["origin"].startswith("train.parquet:")


def test_hostile_input_ends_in_rejects_not_in_a_crash(tmp_path: Path) -> None:
    good = chat("가", "나")
    lines = [
        b"\xef\xbb\xbf" + json.dumps(good).encode(),
        json.dumps(chat("다", "라")).encode() + b"\r",
        b"\x00" * 40,
        b'{"messages":[{"role":"user","content":"\\ud800"},{"role":"assistant","content":"a"}]}',
        b'{"messages":' + b"[" * 100_000,
        b'{"messages":[{"role":"user","content":5},{"role":"assistant","content":"a"}]}',
        b'{"messages":[],"messages":' + json.dumps(chat("마", "바")["messages"]).encode() + b"}",
        b"   ",
        b"\xef\xbb\xbf" + json.dumps(good).encode(),
        b'{"messages": NaN}',
        b'{"messages":[{"role":"user","content":"\\u0000"},{"role":"assistant","content":"a"}]}',
        b'{"b":123456789012345678901234567890,' + json.dumps(chat("사", "아")).encode()[1:],
    ]
    raw = write_files(tmp_path / "raw", {"a.jsonl": b"\n".join(lines), "b.jsonl": b"y" * 50_000_000, "c.jsonl": b""})
    stage, manifest = prepared(f"{tmp_path}/store", raw, workers=1)
    assert [row["messages"][0]["content"] for row in rows_of(stage, manifest)] == ["가", "다", "마", "사"]
    assert [(row["reason"], row["line_number"]) for row in rows_of(stage, manifest, "rejects")] == [
        ("broken_json", 3),
        ("broken_json", 4),
        ("broken_json", 5),
        ("content_type", 6),
        ("broken_json", 9),
        ("broken_json", 10),
        ("nul_character", 11),
        ("too_long_line", 1),
    ]


def test_preflight_names_what_is_wrong_with_the_input(tmp_path: Path) -> None:
    store = f"{tmp_path}/store"
    with pytest.raises(UserError, match="nothing at"):
        stages(store, tmp_path / "missing", prepare={})
    with pytest.raises(UserError, match="all empty"):
        stages(store, write_files(tmp_path / "empty", {"a.jsonl": b""}), prepare={})
    for files, message in (
        ({"a.csv": b"x"}, "has no file that prepare reads; it holds a.csv"),
        ({"a.json": b'[{"messages": []}]'}, "is one JSON array"),
        ({"a.jsonl": b"", "readme.md": b"x"}, "all empty"),
    ):
        folder = write_files(tmp_path / message[:6], files)
        with pytest.raises(UserError, match=message):
            prepare.preflight(stages(store, folder, prepare={})["prepare"])


def test_an_input_that_changed_after_the_lock_is_refused(tmp_path: Path, raw: Path) -> None:
    stage = stages(f"{tmp_path}/store", raw, prepare={})["prepare"]
    (raw / "kullm.jsonl").write_bytes(jsonl(*many("새", 10)))
    with pytest.raises(UserError, match="changed since the run was locked"):
        prepare.run(stage)
