import pytest

from pipeline.text.chinese import CLEAN, ChineseRule, foreign_characters, has_han, judge_chinese

KOREAN = [
    "한자(漢字)는 글자다",
    "漢字(한자)와 大韓民國臨時政府(대한민국임시정부)",
    "이순신(李舜臣, 1545년 4월 28일 ~ 1598년)은 장군이다",
    "美 대통령과 中 주석이 만났다",
    "四字成語를 배우자",
    "마오쩌둥(毛泽东)은 정치인이다",
    "『삼국지』(三國志)와 《三國志》(삼국지)",
    "AI(人工智能)를 쓴다",
    "ㅋㅋㅋ 「인용」 … 、 그리고 ①",
    "",
]
CHINESE = [
    "今天天气很好。",
    "我们 갑시다",
    "나는(你好，我是学生)",
    "中国人（中国人）说",
    "안녕하세요. 你好，很高兴认识你。",
    "今日之事不可不知也 라고 했다",
]


@pytest.mark.parametrize("text", KOREAN)
def test_korean_text_with_hanja_is_not_chinese(text: str) -> None:
    assert not judge_chinese(text).chinese


@pytest.mark.parametrize("text", CHINESE)
def test_a_chinese_sentence_is_chinese_and_says_why(text: str) -> None:
    verdict = judge_chinese(text)
    assert verdict.chinese and verdict.why


def test_numbers_count_characters_outside_and_inside_glosses() -> None:
    verdict = judge_chinese("한자(漢字)와 美 대통령")
    assert (verdict.gloss_han, verdict.han, verdict.hangul, verdict.longest_run) == (2, 1, 6, 1)
    assert verdict.share == 1 / 7


def test_text_without_han_is_the_clean_verdict() -> None:
    assert judge_chinese("한국어 English 123") is CLEAN
    assert not has_han("ㅋㅋ。、") and has_han("가漢") and has_han("\U00020000")


def test_thresholds_decide() -> None:
    text = "이것은 非常 중요합니다"
    assert not judge_chinese(text).chinese
    assert judge_chinese(text, ChineseRule(max_run=1)).chinese
    assert judge_chinese(text, ChineseRule(min_han=1, max_share=0.1)).chinese
    assert judge_chinese("마오쩌둥(毛泽东)", ChineseRule(glosses=False)).chinese
    assert not judge_chinese("我们 갑시다", ChineseRule(max_foreign=1)).chinese


def test_characters_that_only_chinese_writes_come_from_the_two_standards() -> None:
    foreign = foreign_characters()
    assert set("们这你说国") <= foreign
    assert not foreign & set("大韓民國的是我")
    assert len(foreign) == 4079


def test_time_is_linear_in_the_number_of_brackets() -> None:
    assert not judge_chinese("漢(가)(나)" * 100_000 + "(a)" * 100_000, ChineseRule(max_share=1, max_run=9)).chinese


def test_hangul_is_counted_to_the_edges_of_its_block() -> None:
    text = "가힣\ud7a4\ud7ff\uabffㄱ漢a𝓐"
    assert judge_chinese(text).hangul == 2 and judge_chinese("가나 漢").hangul == 2
