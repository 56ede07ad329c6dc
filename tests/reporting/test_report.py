"""The page and its JSON twin: every figure from the store, nothing invented, hostile text harmless."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.reporting.gather import Report, gather
from pipeline.reporting.page import page
from pipeline.store.objects import Store
from pipeline.store.runs import RunLock
from tests.reporting.chain import HOSTILE, RECIPE, build, do, new_run


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, RunLock, Report, str]:
    store, lock = build(tmp_path_factory.mktemp("done"))
    report = gather(store, lock)
    return store, lock, report, page(report)


class Outline(HTMLParser):
    """Collects tags, ids, and the text of each section."""

    VOID = ("meta", "line", "img", "br", "link", "input")

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: dict[str, str] = {}
        self.section = "top"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.extend(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "section":
            self.section = dict(attrs)["id"] or ""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.extend(attrs)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text[self.section] = self.text.get(self.section, "") + data


def outline(html: str) -> Outline:
    parser = Outline()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


def test_hostile_text_stays_text(done: tuple[Store, RunLock, Report, str]) -> None:
    _, _, report, html = done
    shown = outline(html)
    assert any(HOSTILE in pair["before"] for pair in report.pairs) and HOSTILE in str(report.wrong)
    assert shown.tags.count("script") == 1 and "img" not in shown.tags
    assert HOSTILE not in html and HOSTILE in shown.text["scores"]
    assert not [name for name, _ in shown.attributes if name.startswith("on")]


def test_the_page_fetches_nothing_and_holds_both_languages(done: tuple[Store, RunLock, Report, str]) -> None:
    _, _, report, html = done
    shown = outline(html)
    assert not {"src", "srcset", "action"} & {name for name, _ in shown.attributes}
    assert not [value for _, value in shown.attributes if value and "//" in value]
    assert all(value.startswith("#") for name, value in shown.attributes if name == "href" and value)
    assert not re.search(r"url\(|@import", html)
    assert '<html lang="ko" data-language="ko">' in html and '<html lang="en" data-language="en">' in page(report, "en")
    assert "데이터가 지나온 길" in html and "Where the rows went" in html
    assert shown.tags.count("svg") == 4 + 3 * 2  # two curves of each training, two lengths of each set


def test_the_json_twin_has_states_rows_seconds_memory_and_scores(done: tuple[Store, RunLock, Report, str]) -> None:
    _, lock, report, _ = done
    twin = json.loads(json.dumps(report.plain()))
    assert twin["run"] == lock.run_id and twin["verdict"] == "done" and set(twin["stages"]) == set(lock.stages)
    phase1 = twin["stages"]["phase1"]
    assert phase1["state"] == "done" and phase1["gpu_peak_bytes"] == 26 << 30 and phase1["seconds"] > 0
    assert phase1["rows"] == {"planned": 60, "ok": 59, "rejected": {"over_long": 1}, "failed": {}}
    assert phase1["curves"]["loss"][-1][0] == 200 and len(phase1["curves"]["eval_loss"]) == 4
    assert phase1["scores"] is None and twin["stages"]["score2"]["scores"]["data.on.exact"] == pytest.approx(11 / 12)
    assert twin["stages"]["prepare"]["code"] == [{"version": "0.1.0", "commit": "c0ffee" * 6 + "abcd"}]
    assert twin["promotion"]["n"] == 1 and twin["stages"]["merge1"]["rows"] is None


def test_every_flow_adds_up_and_names_its_reasons(done: tuple[Store, RunLock, Report, str]) -> None:
    _, _, report, html = done
    flows = {stage.status.name: stage.flow for stage in report.stages if stage.flow}
    assert set(flows) >= {"prepare", "augment", "validate", "phase1", "phase2"}
    for flow in flows.values():
        for one in (flow.whole, *flow.sources):
            assert sum(segment.rows for segment in one.segments) == one.total
    reasons = {segment.reason: segment.rows for segment in flows["prepare"].whole.segments}
    expected = {"kept": 60, "heldout": 12, "duplicate": 5, "chinese": 4, "broken_json": 1, "not_utf8": 1}
    assert expected.items() <= reasons.items()
    augmented = [(segment.state, segment.reason, segment.rows) for segment in flows["augment"].whole.segments]
    assert augmented == [
        ("kept", "kept", 28), ("unused", "not_sampled", 30), ("rejected", "truncated", 1), ("failed", "over_length", 1)
    ]  # fmt: skip
    assert "교사 문맥 길이 초과" in html


def test_samples_show_the_answer_before_and_the_reasoning_and_answer_after(
    done: tuple[Store, RunLock, Report, str],
) -> None:
    _, _, report, html = done
    assert len(report.pairs) == 20
    pair = report.pairs[0]
    assert pair["after"] == f"정답: {pair['before']}" and pair["reasoning"].startswith("1단계:")
    assert "<think>" not in pair["after"] and pair["before"] in outline(html).text["samples"]


def test_a_run_that_has_only_begun_shows_what_is_missing_as_missing(tmp_path: Path) -> None:
    store, lock = new_run(tmp_path)
    report = gather(store, lock)
    shown = outline(page(report))
    assert report.verdict == "incomplete" and report.problems == {}
    assert "No evaluation is done yet." in shown.text["scores"] and "No augmented rows yet." in shown.text["samples"]
    assert "This stage has not run." in shown.text["training"] and "0.0 s" not in shown.text["cost"]
    twin = report.plain()["stages"]["phase1"]
    assert [twin[key] for key in ("rows", "seconds", "peak_bytes", "scores", "curves", "flow")] == [None] * 6


def test_a_half_done_run_shows_the_scores_it_has(tmp_path: Path) -> None:
    store, lock = build(tmp_path, "score-base")
    report = gather(store, lock)
    shown = outline(page(report, "en"))
    assert [one.done for one in report.evaluations] == [True, False, False]
    assert "16.7 %" in shown.text["scores"] and "This stage has not run." in shown.text["scores"]


def test_a_refused_gate_stands_at_the_top_with_its_remedy(tmp_path: Path) -> None:
    store, lock = new_run(tmp_path, RECIPE.replace("min_pass_rate: 0.5", "min_pass_rate: 0.99"))
    for name in ("prepare", "augment", "validate"):
        do(store, lock, name)
    report = gather(store, lock)
    assert report.verdict == "refused" and list(report.plain()["problems"]) == ["validate"]
    assert "min_pass_rate 0.99 is missed by 0.097" in outline(page(report)).text["top"]
