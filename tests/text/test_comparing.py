"""N-gram overlap and near-duplicates in a prepare stage: what goes, what is said of it, what decides the bytes."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from pipeline.text import prepare
from tests.text.stages import chat, contents, jsonl, prepared, rows_of, stages, write_files

SYLLABLES = [chr(0xAC00 + 41 * number) for number in range(250)]
PROMPT = "지구에서 달까지의 평균 거리는 몇 킬로미터인지 설명해 주세요."


def said(seed: int, length: int = 80) -> str:
    return "".join(random.Random(seed).choices(SYLLABLES, k=length))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Rows of their own, three near-duplicates of rows in other files, and three rows that hold the prompt."""
    own = [chat(said(n, 20), said(1000 + n)) for n in range(60)]
    close = [chat(said(n, 20) + "!", " " + said(1000 + n)) for n in (3, 40, 41)]
    leaked = [
        chat("지구에서 달까지의 평균거리는 몇 킬로미터인지 설명해주세요", said(5)),
        chat("다음을 요약해", f"요약: {PROMPT}"),
        {"messages": chat("앞선 질문", "답")["messages"] + chat(PROMPT, "38만 km")["messages"]},
    ]
    files = {
        "a.jsonl": jsonl(*own[:25], close[1], b"{broken", leaked[0], chat(said(2, 20), said(1002))),
        "b.jsonl.gz": jsonl(close[0], *own[25:50], close[2], leaked[1]),
        "c.jsonl": jsonl(*own[50:], leaked[2]),
        "../eval/questions.jsonl": jsonl(
            chat("아주 다른 질문입니다", "답"), chat(PROMPT, "약 38만 4천 km", origin="q.csv:9")
        ),
    }
    return write_files(tmp_path / "raw", files)


def settings(raw: Path, **more: Any) -> dict[str, Any]:
    return {
        "source": {"input": "raw"},
        "exclude_overlap_with": [f"{raw.parent}/eval/questions.jsonl"],
        "overlap_ngrams": {"share": 0.5},
        "near_duplicates": {},
        "shard_rows": 16,
        "workers": 1,
        **more,
    }


def test_rows_that_resemble_others_are_rejected_with_what_they_resemble(tmp_path: Path, raw: Path) -> None:
    stage, manifest = prepared(f"{tmp_path}/store", raw, **settings(raw))
    assert manifest.counts.rejected == {"broken_json": 1, "duplicate": 1, "near_duplicate": 3, "overlap_ngram": 3}
    rejects = {(row["reason"], row["origin"]): row["detail"] for row in rows_of(stage, manifest, "rejects")}
    assert rejects["near_duplicate", "b.jsonl:1"] == "nearly the same text as a.jsonl:4"
    assert rejects["near_duplicate", "b.jsonl:17"] == "nearly the same text as a.jsonl:26"
    assert rejects["near_duplicate", "b.jsonl:27"] == "nearly the same text as b.jsonl:18"
    assert rejects["duplicate", "a.jsonl:29"] == "the same turns as a.jsonl:3"
    place = f"row 2 of {raw.parent}/eval/questions.jsonl (q.csv:9)"
    assert (
        rejects["overlap_ngram", "a.jsonl:28"]
        == f"shares 14 of 14 n-grams of {place}, first '지구에서 달까지의 평균거리는'"
    )
    assert {origin for reason, origin in rejects if reason == "overlap_ngram"} == {
        "a.jsonl:28",
        "b.jsonl:28",
        "c.jsonl:11",
    }
    assert len(rows_of(stage, manifest)) == 60


def test_what_it_cost_and_some_pairs_are_measured(tmp_path: Path, raw: Path) -> None:
    measured = prepared(f"{tmp_path}/store", raw, **settings(raw))[1].measurements
    overlap, near = measured["overlap_ngrams"], measured["near_duplicates"]
    assert {key: overlap[key] for key in ("compared", "removed", "prompts", "bare")} == {
        "compared": 67, "removed": 3, "prompts": 2, "bare": 0,
    }  # fmt: skip
    assert (near["compared"], near["removed"]) == (67, 3) and near["seconds"] >= 0 and overlap["seconds"] >= 0
    assert [(pair["origin"], pair["with"]) for pair in near["pairs"]] == [
        ("b.jsonl:1", "a.jsonl:4"),
        ("b.jsonl:17", "a.jsonl:26"),
        ("b.jsonl:27", "b.jsonl:18"),
    ]
    assert near["pairs"][0]["text"] == said(3, 20) + "!\n\n " + said(1003) and near["pairs"][0]["shared"] == 1
    assert [pair["origin"] for pair in overlap["pairs"]] == ["a.jsonl:28", "b.jsonl:28", "c.jsonl:11"]
    assert (
        overlap["pairs"][1]["with_text"] == PROMPT and overlap["pairs"][1]["text"] == f"다음을 요약해\n\n요약: {PROMPT}"
    )
    funnels = measured["sources"].values()
    assert sum(source["rejected"].get("near_duplicate", 0) for source in funnels) == 3


def test_the_bytes_depend_on_neither_workers_nor_units_nor_packing(
    tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, one = prepared(f"{tmp_path}/one", raw, **settings(raw))
    monkeypatch.setattr(prepare, "UNIT_BYTES", 1000)
    _, small = prepared(f"{tmp_path}/small", raw, **settings(raw))
    _, two = prepared(f"{tmp_path}/two", raw, **settings(raw, workers=2))
    assert contents(one) == contents(small) == contents(two)
    without = [{**measures, "seconds": 0} for m in (one, two) for measures in (m.measurements["near_duplicates"],)]
    assert without[0] == without[1]


def test_two_workers_and_a_lost_journal_give_the_same_bytes(tmp_path: Path, raw: Path) -> None:
    _, alone = prepared(f"{tmp_path}/alone", raw, **settings(raw))
    stage = stages(f"{tmp_path}/store", raw, prepare=settings(raw))["prepare"]
    stage.index, stage.of = 1, 2
    prepare.run(stage)
    compared = [entry.key for entry in stage.store.list(stage.directory.key("compared"))]
    assert sum(key.endswith(".json") for key in compared) == 3
    stage.store.delete(stage.directory.key("_MANIFEST.json"))
    stage.store.delete(next(key for key in compared if key.endswith(".json")))
    for entry in stage.store.list(stage.directory.key("done")):
        stage.store.delete(entry.key)
    again = stages(f"{tmp_path}/store", raw, prepare=settings(raw))["prepare"]
    prepare.run(again)
    manifest = again.directory.manifest()
    assert manifest is not None and contents(manifest) == contents(alone)


def test_alone_each_rule_does_its_own(tmp_path: Path, raw: Path) -> None:
    near = prepared(f"{tmp_path}/near", raw, **settings(raw, exclude_overlap_with=[], overlap_ngrams=None))[1]
    assert near.counts.rejected == {"broken_json": 1, "duplicate": 1, "near_duplicate": 3}
    ngrams = prepared(f"{tmp_path}/ngrams", raw, **settings(raw, near_duplicates=None, duplicates="none"))[1]
    assert ngrams.counts.rejected == {"broken_json": 1, "overlap_ngram": 3}
    none = prepared(f"{tmp_path}/none", raw, **settings(raw, near_duplicates=None, overlap_ngrams=None))[1]
    assert none.counts.rejected == {"broken_json": 1, "duplicate": 1}
    assert not {"overlap_ngrams", "near_duplicates"} & set(none.measurements)
    assert not json.dumps(none.measurements).count("pairs")


def test_columns_and_system_turns(tmp_path: Path) -> None:
    rows = [{"q": PROMPT, "a": said(1)}, {"q": said(2), "a": said(3)}, {"q": said(2) + "?", "a": said(3), "s": said(4)}]
    files = {"a.jsonl": jsonl(*rows), "../eval/e.jsonl": jsonl(chat(PROMPT + "!", "답"))}
    raw = write_files(tmp_path / "raw", files)
    columns = {"user": "q", "assistant": "a", "system": "s"}
    more = settings(
        raw,
        columns=columns,
        exclude_overlap_with=[f"{raw.parent}/eval/e.jsonl"],
    )
    _, manifest = prepared(f"{tmp_path}/store", raw, **more)
    assert manifest.counts.rejected == {"near_duplicate": 1, "overlap_ngram": 1}


def test_a_prompt_held_letter_by_letter_is_an_overlap_with_and_without_ngrams(tmp_path: Path) -> None:
    turns = [*chat("다른 질문", "답")["messages"], *chat("  지구에서 달까지 ", "38만 km")["messages"]]
    rows = [
        chat("지구에서  달까지", said(1)),
        chat("지구에서달까지", said(2)),
        {"messages": turns},
        chat("...", said(3)),
        chat("남는 질문", said(4)),
    ]
    opening = {"messages": chat("다른 질문", "답")["messages"] + [{"role": "user", "content": "지구에서 달까지"}]}
    files = {
        "a.jsonl": jsonl(*rows),
        "../eval/questions.jsonl": jsonl(chat("지구에서 달까지", "답"), opening, chat(" ... ", "?")),
    }
    raw = write_files(tmp_path / "raw", files)
    both = prepared(f"{tmp_path}/both", raw, **settings(raw, near_duplicates=None))[1]
    assert both.counts.rejected == {"overlap": 3, "overlap_ngram": 1}
    exact = prepared(f"{tmp_path}/exact", raw, **settings(raw, near_duplicates=None, overlap_ngrams=None))[1]
    assert exact.counts.rejected == {"overlap": 3}
