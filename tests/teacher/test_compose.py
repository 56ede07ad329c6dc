"""From a teacher's answer to a row: every way to reason becomes one."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.engine.protocol import Answer
from pipeline.recipe.fields import resolved
from pipeline.recipe.fingerprint import short_hash
from pipeline.teacher.compose import Requests, numbered, reasoning_and_answer, request_messages
from pipeline.teacher.reading import Row
from pipeline.teacher.settings import AugmentSettings
from pipeline.text.chatml import Turn

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
STEPS = "1단계: 3+4\n2단계: 7"


@pytest.mark.parametrize(
    ("content", "reasoning", "expected"),
    [
        ("정답: 7", STEPS, (STEPS, "정답: 7")),
        (f"<think>\n{STEPS}\n</think>\n\n정답: 7", None, (STEPS, "정답: 7")),
        (f"{STEPS}\n</think>\n\n정답: 7", None, (STEPS, "정답: 7")),
        (f"{STEPS}\n\n최종 답변: 7", None, (STEPS, "7")),
        (f"{STEPS}\n\n**최종 답변:** 일곱입니다.\n둘째 줄", None, (STEPS, "일곱입니다.\n둘째 줄")),
        (f"{STEPS}\n\n정답: 7", None, (STEPS, "정답: 7")),
        (f"{STEPS}\n\n합은 7입니다.", None, (STEPS, "합은 7입니다.")),
        (STEPS, None, (STEPS, "")),
        (f"{STEPS}\n최종 답변: 7", "let me think about it", (STEPS, "7")),
        ("최종 답변: 7", "더하면 된다", ("더하면 된다", "7")),
        ("7", None, ("", "7")),
        ("<think>\n1단계: 3+4", None, ("1단계: 3+4", "")),
    ],
)
def test_reasoning_and_answer_are_told_apart(content: str, reasoning: str | None, expected: tuple[str, str]) -> None:
    assert reasoning_and_answer(Answer(content, reasoning, "stop")) == expected


def test_paragraphs_without_steps_are_numbered() -> None:
    assert (
        numbered("먼저 더한다.\n다시 본다.\n\n\n그다음 뺀다.") == "1단계: 먼저 더한다. 다시 본다.\n2단계: 그다음 뺀다."
    )
    assert numbered("먼저 더한다.\n그다음 뺀다.") == "1단계: 먼저 더한다.\n2단계: 그다음 뺀다."


@given(question=ANY_TEXT, answer=ANY_TEXT)
def test_a_request_has_the_name_that_its_canonical_form_gives(question: str, answer: str) -> None:
    """Names are composed of bytes that are made once; names of answers that are paid for must never change."""
    settings = AugmentSettings(
        source="x", teacher={"served_model_name": "t"}, sampling={"stop": ["끝", '"'], "top_k": 3}
    )
    row = Row(b"", "id", "s", "o", {}, [Turn("system", "s\x7f"), Turn("user", question), Turn("assistant", answer)])
    body = {"messages": request_messages(row, settings), **settings.sampling.body()}
    engine = resolved(settings.teacher.engine, with_operational=False)
    engine.pop("max_model_len")
    key, request = Requests("who", settings).request(row)
    assert key == short_hash({"teacher": "who", "engine": engine, "rerun": settings.rerun, "body": body}, 32)
    assert orjson.loads(request) == body


@pytest.mark.parametrize(("prompt", "words"), [("{answer}", "no {question}"), ("{question} {qustion}", "{qustion}")])
def test_a_prompt_with_wrong_fields_is_refused(prompt: str, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        AugmentSettings(source="x", teacher={"served_model_name": "t"}, prompt=prompt)
    assert words in str(caught.value)


def test_a_teacher_that_nobody_names_is_refused() -> None:
    with pytest.raises(ValidationError, match="needs `model`"):
        AugmentSettings(source="x", teacher={})
