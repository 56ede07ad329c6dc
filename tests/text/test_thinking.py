import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.text.thinking import (
    Thinking,
    final_answer,
    join_thinking,
    same_answer,
    split_thinking,
    step_numbers,
    steps,
)


def test_a_well_formed_turn_is_taken_apart() -> None:
    thinking = split_thinking("<think>\n1단계: 3+4\n</think>\n\n7")
    assert thinking == Thinking("1단계: 3+4", "7", closed=True, opened=True)
    assert thinking.well_formed


@pytest.mark.parametrize(
    ("content", "reasoning", "answer", "closed", "opened", "nested"),
    [
        ("7", None, "7", False, False, False),
        ("<think>1단계:", "1단계:", "", False, True, False),
        ("3+4</think>7", "3+4", "7", True, False, False),
        ("<think>a<think>b</think></think>c", "a<think>b</think>", "c", True, True, True),
        ("<think>a</think>b<think>c</think>d", "a</think>b<think>c", "d", True, True, True),
        ("<think>\n\n</think>\n\n답", "", "답", True, True, False),
        ("</think><think>a", "a", "", False, True, True),
    ],
)
def test_missing_and_nested_tags_are_seen(
    content: str, reasoning: str | None, answer: str, closed: bool, opened: bool, nested: bool
) -> None:
    thinking = split_thinking(content)
    assert (thinking.reasoning, thinking.answer) == (reasoning, answer)
    assert (thinking.closed, thinking.opened, thinking.nested) == (closed, opened, nested)


def test_text_before_the_tag_is_not_well_formed() -> None:
    assert split_thinking("음 <think>a</think>b").before == "음"
    assert not split_thinking("음 <think>a</think>b").well_formed


@given(st.text(st.characters(exclude_characters="<>")), st.text(st.characters(exclude_characters="<>")))
def test_joining_is_undone_by_splitting(reasoning: str, answer: str) -> None:
    thinking = split_thinking(join_thinking(reasoning, answer))
    assert (thinking.reasoning, thinking.answer, thinking.well_formed) == (reasoning.strip(), answer.strip(), True)


def test_steps_are_marks_at_line_starts() -> None:
    reasoning = "1단계: 가\n**2단계:** 나\n### 3 단계. 다\n그래서 4단계: 는 세지 않는다\n- 5단계： 라"
    assert step_numbers(reasoning) == [1, 2, 3, 5]
    assert steps(reasoning) == 4
    assert steps("단계 없음") == 0


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3x + 5 = 14 이므로 x = 3. 정답: x = 3입니다.", "3"),
        ("답은 ③번", "3"),
        ("정답: (B)", "b"),
        ("정답은 4번 '제주도'입니다", "4"),
        ("**1,200원**입니다.", "1200"),
        ("따라서 3 더하기 4는 7입니다.", "7"),
        ("<think>정답: 5</think>", None),
        ("<think>정답: 5</think>\n\n65", "65"),
        ("답: 65개입니다. 확인해 보세요", "65"),
        ("\\boxed{\\frac{6}{8}}", "3/4"),
        ("#### -3/6", "-1/2"),
        ("답: 3.50", "3.5"),
        ("The answer is 7.", "7"),
        ("정답은 **서울**입니다.", "서울"),
        ("수도는 서울이다", "수도는 서울"),
        ("정답은 다음과 같습니다: 7", "7"),
        ("６５", "65"),
        ("−5도", "-5"),
        ("답: 1/0", "1/0"),
        ("", None),
        ("A", "a"),
    ],
)
def test_the_final_answer_is_found_and_normalised(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


def test_same_answer_compares_turns_with_bare_answers() -> None:
    assert same_answer("<think>1단계: 가</think>\n\n정답: 1,200원", "1200")
    assert not same_answer("정답: 12", "13")
    assert not same_answer("<think>12", "12")


@given(st.text())
def test_any_text_has_an_answer_or_none(text: str) -> None:
    answer = final_answer(text)
    assert answer is None or isinstance(answer, str)


def test_long_numbers_and_long_texts_are_no_trap() -> None:
    digits = "1" * 10_000
    assert final_answer(f"답: {digits}/3") == f"{digits}/3"
    assert final_answer(digits) == digits
    assert final_answer("답: " * 50_000 + "5") is not None
    assert steps("1단계" * 50_000) == 0
    assert split_thinking("<think>" * 50_000).nested
