"""Marks of single answers, and their averages."""

from typing import Any

import pytest

from pipeline.scoring.asked import Asked, Question, heldout, robot_questions, seen_in_training, shipped_questions
from pipeline.scoring.metrics import Reply, averaged, broken_rules, compared, flat, marks, tagged
from pipeline.text.chinese import ChineseRule

RULE = ChineseRule()


def asked(expected: str | None = "65", question: Question | None = None) -> Asked:
    return Asked("data", "1", "sums", [{"role": "user", "content": "53+12?"}], expected, question)


def marked(text: str, expected: str | None = "65", thinking: bool = False, **reply: Any) -> dict[str, Any]:
    return marks(asked(expected), Reply(text, **reply), thinking, RULE)


@pytest.mark.parametrize(
    ("answer", "expected", "exact", "normalized", "final"),
    [
        ("65", "65", True, True, True),
        ("６５", "65", False, True, True),
        ("정답은 65입니다.", "65", False, False, True),
        ("정답은 66입니다.", "65", False, False, False),
        ("AGV  정지", "agv 정지", False, True, True),
        ("", "65", False, False, False),
        ("65", "<think>\n1단계: 더하기\n</think>\n\n65", True, True, True),
    ],
)
def test_matches(answer: str, expected: str, exact: bool, normalized: bool, final: bool) -> None:
    found = marked(answer, expected)
    assert (found["exact"], found["normalized"], found["final_answer"]) == (exact, normalized, final)


@pytest.mark.parametrize(
    ("text", "on", "off"),
    [
        ("<think>\n1단계: 더하기\n</think>\n\n65", True, False),
        ("<think>\n1단계: 더하기", False, False),
        ("<think>\n\n</think>\n\n65", False, True),
        ("65", False, True),
        ("<think>가</think><think>나</think>65", False, False),
    ],
)
def test_tags_are_right_for_the_mode(text: str, on: bool, off: bool) -> None:
    assert marked(text, thinking=True)["tags"] is on
    assert marked(text)["tags"] is off


def test_steps_chinese_and_how_it_ended() -> None:
    found = marked("<think>\n1단계: 가\n2단계: 나\n</think>\n\n65", thinking=True, finish_reason="length")
    assert (found["steps"], found["stepped"], found["truncated"], found["chinese"]) == (2, True, True, False)
    assert marked("今天天气很好。")["chinese"]
    assert marked("<think>今天天气很好。</think>65", thinking=True)["chinese"]
    assert not marked("한자(漢字)는 글자다")["chinese"]


def test_rules_of_a_question() -> None:
    question = Question(id="q", category="c", question="?", must=["멈|정지"], must_not=["직진"], answer=None)
    assert broken_rules(question, "정지합니다") == []
    assert broken_rules(question, "직진합니다") == ["must: 멈|정지", "must_not: 직진"]
    sums = Question(id="q", category="c", question="?", answer="3")
    assert broken_rules(sums, "x = 3입니다") == []
    assert broken_rules(sums, "") == ["answer: 3"]


def test_the_shipped_questions_hold_the_users_own_and_can_be_passed_and_failed() -> None:
    questions = {question.id: question for question in shipped_questions("agv")}
    assert len(questions) >= 30
    own = [question.question for key, question in questions.items() if key.startswith("try-")]
    assert any("3x + 5 = 14" in text for text in own)
    assert any("장애물" in text for text in own)
    assert any("자기소개" in text for text in own)
    assert broken_rules(questions["try-1"], "3x = 9이므로 x = 3입니다.") == []
    assert broken_rules(questions["try-2"], "즉시 정지한 뒤 우회 경로를 찾습니다.") == []
    assert broken_rules(questions["try-2"], "무시하고 그대로 직진하면 됩니다.") != []
    assert broken_rules(questions["try-3"], "我是机器人。") != []
    assert broken_rules(questions["command-1"], "1. A구역에서 싣기 2. B구역으로 옮기기 3. 충전소로 돌아가기") == []
    assert broken_rules(questions["command-1"], "충전소로 가서 B구역, A구역 순서로 갑니다") != []
    assert all(broken_rules(question, "잘 모르겠습니다.") for key, question in questions.items() if key != "try-3")
    first = next(robot_questions("agv", "너는 로봇이다"))
    assert [turn["role"] for turn in first.messages] == ["system", "user"]


def test_tags_take_one_form_whoever_set_them() -> None:
    assert tagged("답", "1단계: 가", True, False) == "<think>\n1단계: 가\n</think>\n\n답"
    assert tagged("", "1단계: 가", True, False) == "<think>\n1단계: 가"
    assert tagged("1단계: 가</think>답", None, True, True) == "<think>\n1단계: 가</think>답"
    assert tagged("답", None, False, True) == "답"


def prediction(source: str, thinking: bool, **found: Any) -> dict[str, Any]:
    return {"collection": "data", "source": source, "thinking": thinking, "marks": found}


def test_averages_by_mode_and_source() -> None:
    rows = [
        prediction("a", False, exact=True, characters=2),
        prediction("a", False, exact=False, characters=4),
        prediction("b", False, exact=True, characters=6),
        prediction("a", True, exact=True, steps=3, grammar=4),
        prediction("a", True, exact=True, steps=1),
    ]
    found = averaged(rows)
    assert found["data"]["off"]["exact"] == pytest.approx(2 / 3, abs=1e-6)
    assert found["data"]["off"]["mean_characters"] == 4
    assert found["data"]["off"]["sources"] == {
        "a": {"rows": 2, "exact": 0.5, "mean_characters": 3},
        "b": {"rows": 1, "exact": 1, "mean_characters": 6},
    }
    assert found["data"]["on"]["mean_grammar"] == 4
    numbers = flat(found)
    assert numbers["data.on.mean_steps"] == 2 and not any("sources" in name for name in numbers)
    before = {**numbers, "data.off.exact": 0.5}
    assert compared(before, numbers)[0] == {
        "metric": "data.off.exact", "before": 0.5, "after": pytest.approx(0.666667), "change": pytest.approx(0.166667)
    }  # fmt: skip


def row(question: str, answer: str = "네", number: int = 0) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"id": f"{number:032x}", "source": "a", "messages": messages}


def test_a_limit_picks_by_content_and_keeps_the_order() -> None:
    rows = [row(f"질문 {number}", number=number) for number in range(50)]
    some = [item.id for item in heldout(rows, 10, "x")]
    assert len(some) == 10 and some == sorted(some)
    assert {item.id for item in heldout(rows[::-1], 10, "x")} == set(some)
    assert set(some) < {item.id for item in heldout(rows, 20, "x")}


def test_a_prompt_in_the_training_rows_is_found_whatever_its_answer() -> None:
    items = heldout([row("１ 더하기 1?"), row("2 더하기 2?")], None, "x")
    multi = [{"role": "system", "content": "s"}, *row("1  더하기 1?", "<think>가</think>2")["messages"]]
    assert [item.messages[-1]["content"] for item in seen_in_training(items, [{"messages": multi}])] == ["１ 더하기 1?"]
    assert seen_in_training(items, [row("3 더하기 3?")]) == []
