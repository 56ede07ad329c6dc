"""The plain rule: what each line is, and how contents and prompts are named."""

import json
from typing import Any

import pytest

from pipeline.text.examine import Rules, content_key, examine, last_prompt_hash, normal_text, prompt_hashes
from pipeline.text.settings import Columns
from tests.text.stages import chat

RULES = Rules(
    exclude=frozenset({"no"}),
    max_row_bytes=400,
    max_chars=60,
    overlap=frozenset(prompt_hashes([("user", "겹침"), ("assistant", "")])),
)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"messages"', "broken_json"),
        (b"\xff\xfe", "not_utf8"),
        (b"x" * 500, "too_long_line"),
        (b"[]", "row_type"),
        (b'{"messages": [], "source": 3}', "source_type"),
        (b"{}", "messages_missing"),
        (b'{"messages":' + b"[" * 300, "broken_json"),
        (json.dumps(chat("가", "나", source="no")).encode(), "source_excluded"),
        (json.dumps(chat("가" * 60, "나"), ensure_ascii=False).encode(), "too_many_chars"),
        (json.dumps(chat("가", "今天天气很好")).encode(), "chinese"),
        (json.dumps(chat(" 겹침\n", "나")).encode(), "overlap"),
    ],
)
def test_reasons(line: bytes, reason: str) -> None:
    assert examine(line, "stem", RULES).reason == reason


def test_question_and_answer_columns_make_messages() -> None:
    rules = Rules(columns=Columns(user="q", assistant="a", system="s", source="from"))
    finding = examine(b'{"q": "1+1?", "a": "2", "s": "", "from": "math"}', "stem", rules)
    assert finding == ("", "", "math", [("user", "1+1?"), ("assistant", "2")])
    assert examine(b'{"q": "1+1?"}', "stem", rules).reason == "content_type"


def test_the_key_leaves_the_system_turn_out_and_knows_escapes() -> None:
    turns: list[Any] = [("user", "가"), ("assistant", "나")]
    assert content_key([("system", "x"), *turns]) == content_key(turns)
    assert content_key(turns) != content_key([("user", "가나"), ("assistant", "")])
    plain = examine(json.dumps(chat("가", "나")).encode(), "s", Rules())
    assert content_key(plain.turns) == content_key(turns)


def test_prompts_are_compared_after_normalisation() -> None:
    assert normal_text(" １ +\n 2 ") == "1 + 2"
    two = [("user", "가"), ("assistant", "나"), ("user", "다"), ("assistant", "라")]
    assert prompt_hashes(two)[0] == last_prompt_hash([("system", "s"), ("user", " 가 "), ("assistant", "다른 답")])
    assert last_prompt_hash(two[:3]) == last_prompt_hash(two)
