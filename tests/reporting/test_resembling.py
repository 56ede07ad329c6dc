"""Rows removed as too like others: counted in the report, some shown beside what they resemble."""

from pathlib import Path

from pipeline.reporting.gather import gather
from pipeline.reporting.page import page
from pipeline.store import runs
from tests.text.stages import chat, jsonl, prepared, write_files

PROMPT = "지구에서 달까지의 평균 거리는 몇 킬로미터인지 설명해 주세요."


def test_the_report_shows_what_was_removed_and_why(tmp_path: Path) -> None:
    rows = [chat(f"{n}번 로봇은 창고에서 무엇을 하나요?", f"{n}번 로봇의 <b>답</b>" * 9) for n in range(9)]
    close = chat("3번 로봇은 창고에서 무엇을 하나요??", "3번 로봇의 <b>답</b>" * 9)
    files = {"a.jsonl": jsonl(*rows, close, chat("질문", PROMPT)), "../eval.jsonl": jsonl(chat(PROMPT, "38만 km"))}
    raw = write_files(tmp_path / "raw", files)
    rules = {"exclude_overlap_with": [f"{tmp_path}/eval.jsonl"], "overlap_ngrams": {"share": 0.5}}
    stage, _ = prepared(f"{tmp_path}/store", raw, near_duplicates={}, **rules)
    lock = runs.read_run(stage.store, stage.run_id)
    html = page(gather(stage.store, lock), "en")
    assert "Removed as near-duplicates" in html and "거의 같은 글이라 뺀 행" in html
    assert "a.jsonl:10" in html and "a.jsonl:4" in html and "row 1 of" in html
    assert "&lt;b&gt;답" in html and "<b>답" not in html
