from typing import Any

import pytest

from pipeline.text.chatml import check_messages, described, is_multi_turn

USER, ASSISTANT = {"role": "user", "content": "가"}, {"role": "assistant", "content": "나"}
SYSTEM = {"role": "system", "content": "다"}


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([USER, ASSISTANT], None),
        ([SYSTEM, USER, ASSISTANT, USER, ASSISTANT], None),
        ([{**USER, "name": "kim"}, ASSISTANT], None),
        (None, "messages_missing"),
        ("안녕", "messages_type"),
        ({"role": "user"}, "messages_type"),
        ([], "messages_empty"),
        (["안녕"], "message_type"),
        ([{"content": "가"}], "role_missing"),
        ([{"role": 1, "content": "가"}], "role_type"),
        ([{"role": "user"}], "content_missing"),
        ([{"role": "user", "content": 5}, ASSISTANT], "content_type"),
        ([{"role": "user", "content": None}, ASSISTANT], "content_type"),
        ([{"role": "tool", "content": "가"}, ASSISTANT], "role_unknown"),
        ([{"role": "user", "content": " \n"}, ASSISTANT], "empty_turn"),
        ([{"role": "user", "content": "\x00"}, ASSISTANT], "nul_character"),
        ([USER, USER, ASSISTANT], "role_order"),
        ([ASSISTANT, USER], "role_order"),
        ([USER, SYSTEM, ASSISTANT], "role_order"),
        ([USER], "no_answer"),
        ([SYSTEM], "no_answer"),
        ([USER, ASSISTANT, USER], "no_answer"),
    ],
)
def test_every_broken_rule_has_its_name(messages: Any, reason: str | None) -> None:
    assert check_messages(messages) == reason


def test_multi_turn_is_more_than_one_user_turn() -> None:
    assert not is_multi_turn([("system", "다"), ("user", "가"), ("assistant", "나")])
    assert is_multi_turn([("user", "가"), ("assistant", "나"), ("user", "가"), ("assistant", "나")])


def test_a_description_shows_roles_lengths_and_types() -> None:
    assert (
        described([{"role": "user", "content": "안녕"}, {"role": "bot", "content": 5}])
        == "2 turns: 'user' 2, 'bot' int"
    )
    assert described([None, {"content": None}]) == "2 turns: null, None null"
    assert described("x" * 200).startswith("messages is 'xxx") and len(described("x" * 200)) < 100
