"""The checks of one reasoning row, each with a row that just passes and one that does not."""

from typing import Any

import orjson
import pytest

from pipeline.teacher.checks import breaks_off, check_row, repeated_passage
from pipeline.teacher.reading import Piece, read_row
from pipeline.teacher.settings import CheckSettings

SOUND = "<think>\n1단계: 3과 4를 더합니다.\n2단계: 합은 7입니다.\n</think>\n\n정답: 7"


def reason(answer: str, teacher: dict[str, Any] | None = None, **checks: Any) -> str:
    turns = [{"role": "user", "content": "3 더하기 4는?"}, {"role": "assistant", "content": answer}]
    line = orjson.dumps({"messages": turns, **({"teacher": teacher} if teacher else {})})
    piece = Piece("a.jsonl", "a", None, lambda: iter([(1, line)]))
    return check_row(read_row(piece, 1, line), CheckSettings(**checks)).reason


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (SOUND, ""),
        ("정답: 7", "no_thinking"),
        ("<think>\n1단계: 3과 4를 더합니다.", "thinking_not_closed"),
        ("1단계: 3과 4를 더합니다.\n</think>\n\n정답: 7", "thinking_malformed"),
        (f"그럼 {SOUND}", "thinking_malformed"),
        ("<think>\n1단계: 今天天气很好我们去公园散步吧.\n</think>\n\n정답: 7", "chinese"),
        ("<think>\n1단계: 한자(漢字)로 쓰면 칠(七)입니다.\n</think>\n\n정답: 7", ""),
        ("<think>\n3과 4를 더하면 7입니다.\n</think>\n\n정답: 7", "steps"),
        ("<think>\n1단계: 3과 4를 더합니다.\n3단계: 7입니다.\n</think>\n\n정답: 7", "steps"),
        ("<think>\n1단계: 더한다\n</think>\n\n정답: 7", "reasoning_short"),
        ("<think>\n1단계: 3과 4를 더하면 7입니다.\n</think>", "answer_short"),
        ("<think>\n1단계: 3과 4를 더합니다.\n2단계:\n</think>\n\n정답: 7", "truncated"),
        ("<think>\n1단계: " + "다시 생각합니다. " * 8 + "\n</think>\n\n정답: 7", "loop"),
        ("<think>\n1단계: " + "다시 생각합니다. " * 7 + "끝입니다.\n</think>\n\n정답: 7", ""),
        ("<think>\n1단계: First we add three and four together.\n</think>\n\nAnswer: 7", "language"),
    ],
)
def test_the_first_broken_rule_is_the_reason(answer: str, expected: str) -> None:
    assert reason(answer) == expected


def test_checks_can_be_loosened_and_tightened() -> None:
    assert reason("정답: 일곱입니다", thinking=False, min_steps=0, min_reasoning_characters=0) == ""
    assert reason(SOUND, min_steps=3) == "steps"
    assert reason(SOUND, max_answer_characters=3) == "answer_long"
    english = SOUND.replace("확인", "check the result")
    assert reason(english, min_hangul_share=0.2) == reason(SOUND, chinese=None) == ""
    assert reason(english.replace("정답", "The final answer"), min_hangul_share=0.7) == "language"


def test_the_teachers_own_word_for_a_cut_answer_counts() -> None:
    assert reason(SOUND, {"finish_reason": "length"}) == "truncated"
    assert reason(SOUND, {"finish_reason": "length"}, truncation=False) == ""


@pytest.mark.parametrize("text", ["정답: 65", "x = 3", "```py\nprint(1)\n```", "끝입니다.", "사과", "**강조**", ""])
def test_a_sound_end_is_not_called_broken_off(text: str) -> None:
    assert breaks_off(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        "값은 3 +",
        "```py\nprint(1)",
        "그러므로,",
        "로봇이 좁은 길에서 장애물을 만났을 때에는 무엇보다도 먼저 주행 속도를",
    ],
)
def test_a_broken_end_is_found(text: str) -> None:
    assert breaks_off(text) != ""


@pytest.mark.parametrize("passage", ["그래서 ", "1단계: 확인합니다. 다음으로 갑니다 ", "다시 봅니다\n", "가나가나다"])
@pytest.mark.parametrize("offset", range(9))
def test_a_passage_is_found_at_any_place_from_the_allowed_number_on(passage: str, offset: int) -> None:
    assert repeated_passage("앞말입니다" + "x" * offset + passage * 8 + "뒷말", 8) != ""
    assert repeated_passage("앞말입니다" + "x" * offset + passage * 7 + "뒷말", 8) == ""


def test_ruled_lines_and_digits_are_no_loop() -> None:
    assert repeated_passage("-" * 500 + "|" + "- " * 300 + "0.3333333333" + "3" * 100, 8) == ""
