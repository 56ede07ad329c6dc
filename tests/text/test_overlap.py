"""The index of prompts that training must not see, and which rows meet one."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.text import overlap
from pipeline.text.ngrams import ngram_hashes
from pipeline.text.overlap import OverlapIndex, Prompt, build_index
from pipeline.text.settings import OverlapNgrams

QUESTION = "지구에서 달까지의 평균 거리는 몇 킬로미터인지 설명해 주세요."


def index_of(folder: Path, *prompts: str | list[str], **rule: Any) -> OverlapIndex:
    rows = (
        Prompt("eval", number, f"eval.jsonl:{number}", [texts] if isinstance(texts, str) else texts)
        for number, texts in enumerate(prompts, 1)
    )
    return build_index(folder, rows, OverlapNgrams(**{"share": 0.5, **rule} if "count" not in rule else rule))


def met(index: OverlapIndex, *rows: list[str]) -> list[tuple[int, int]]:
    grams = ngram_hashes([text for texts in rows for text in texts], index.rule.n)
    return index.meets(grams, [len(texts) for texts in rows])


def test_a_prompt_is_met_through_spacing_punctuation_and_small_edits(tmp_path: Path) -> None:
    index = index_of(tmp_path / "index", "다른 질문은 여기에서 아무 관계가 없습니다", QUESTION)
    assert met(
        index,
        ["달까지 거리는?", "38만 킬로미터입니다"],
        ["지구에서 달까지의 평균거리는 몇 킬로미터인지 설명해주세요!!", "약 38만 4천 km입니다."],
        ["질문입니다.", f"사용자가 물었다: {QUESTION} 그래서 답했다."],  # also inside an answer
        ["지구에서 태양까지의 평균 거리는 몇 킬로미터인지 설명해 주세요.", "1억 5천만"],
        ["지구에서 달까지의 평균 속도와 몇 킬로미터인지"],  # less than half
    ) == [(1, 1), (2, 1), (3, 1)]


def test_a_match_says_which_row_of_which_set_and_the_ngram(tmp_path: Path) -> None:
    index = index_of(tmp_path / "index", "가" * 40, QUESTION)
    match = index.match(["인사", "그는 지구에서 달까지의 평균 거리는 몇 킬로미터인지 설명해 주세요. 라고"])
    assert match is not None
    assert match.prompt == Prompt("eval", 2, "eval.jsonl:2", [QUESTION])
    assert (match.shared, match.of, match.ngram) == (14, 14, "지구에서 달까지의 평균 거리는")
    assert index.match(["아무 관계가 없는 글"]) is None
    assert len(index_of(tmp_path / "long", "나" + "다" * 700).prompt(0).texts[0]) == 601


def test_a_short_turn_is_compared_whole(tmp_path: Path) -> None:
    index = index_of(tmp_path / "index", "대한민국의 수도는?", "1 + 1 = ?", "...")
    assert met(index, ["대한민국의 수도는", "서울"], ["대한민국의 수도는 어디인가요", "서울"], ["...", "!"]) == [(0, 0)]


def test_counts_and_english_words(tmp_path: Path) -> None:
    english = "The quick brown fox jumps over the lazy dog and then it runs far away from here"
    one, three = (index_of(tmp_path / str(count), english, n=5, count=count) for count in (1, 3))
    rows = [["He said: the QUICK brown fox, jumps!"], ["the quick brown fox jumped over the lazy cat"], [english]]
    assert met(one, *rows) == [(0, 0), (2, 0)]
    assert met(three, *rows) == [(2, 0)]


def test_phrases_of_the_set_itself_do_not_count(tmp_path: Path) -> None:
    phrase = "다음 글을 읽고 물음에 알맞은 답을 고르세요 "
    questions = [phrase + f"{word}" * 3 for word in "가나다라마바사아자차카"]
    assert met(index_of(tmp_path / "ten", *questions[:10]), [phrase + "전혀 다른 것"]) == [(0, 0)]
    eleven = index_of(tmp_path / "eleven", *questions)
    assert met(eleven, [phrase + "전혀 다른 것"]) == []
    assert met(eleven, [questions[4]]) == [(0, 4)]


def test_an_empty_set_meets_nothing(tmp_path: Path) -> None:
    index = index_of(tmp_path / "index")
    assert met(index, [QUESTION]) == [] and index.match([QUESTION]) is None


TEXTS = st.lists(st.lists(st.text("가나", max_size=8), min_size=1, max_size=2), max_size=5)


@settings(max_examples=150, deadline=None)
@given(TEXTS, TEXTS, st.sampled_from([{"share": 0.5}, {"share": 1.0}, {"count": 1}, {"count": 3}]))
def test_fast_and_plain_rule_are_equal(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[list[str]], rows: list[list[str]], rule: dict[str, Any]
) -> None:
    index = index_of(tmp_path_factory.mktemp("index") / "i", *prompts, n=3, **rule)
    expected = []
    grams = [set(ngram_hashes(texts, 3).values.tolist()) for texts in prompts]
    common = {gram for own in grams for gram in own if sum(gram in other for other in grams) > overlap.COMMON_PROMPTS}
    for place, texts in enumerate(rows):
        own = set(ngram_hashes(texts, 3).values.tolist())
        parts = []
        for number, prompt in enumerate(grams):
            of, shared = len(prompt - common), len((prompt - common) & own)
            if shared and shared >= (min(rule["count"], of) if "count" in rule else rule["share"] * of):
                parts.append((-shared / of, number))
        if parts:
            expected.append((place, min(parts)[1]))
        match = index.match(texts)
        assert (match.prompt.row - 1 if match else None) == (min(parts)[1] if parts else None)
    assert met(index, *rows) == expected
