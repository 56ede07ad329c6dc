"""The schema of a ChatML row: what a conversation must look like before anything trains on it.

`messages` is a list of {"role", "content"}: at most one system turn, first; then user and assistant in turn, from a
user turn to an assistant turn; no turn empty. Keys of a turn other than these two are ignored.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

ROLES = ("system", "user", "assistant")


class Turn(NamedTuple):
    """One message."""

    role: str
    content: str


def check_messages(messages: Any) -> str | None:
    """The name of the rule that decoded JSON breaks, or None for a sound conversation.

    Example: [{"role": "user", "content": "안녕"}] -> "no_answer"; "안녕" -> "messages_type"; None -> "messages_missing"
    """
    if messages is None:
        return "messages_missing"
    if not isinstance(messages, list):
        return "messages_type"
    for message in messages:
        if not isinstance(message, dict):
            return "message_type"
        if not isinstance(message.get("role"), str):
            return "role_type" if "role" in message else "role_missing"
        if not isinstance(message.get("content"), str):
            return "content_type" if "content" in message else "content_missing"
    return check_turns(turns_of(messages))


def described(messages: Any) -> str:
    """What the conversation looks like, for the detail of a reject: roles with lengths in characters, or wrong types.

    Example: [{"role": "user", "content": "안녕"}, {"role": "bot", "content": 5}] -> "2 turns: 'user' 2, 'bot' int"
    """
    if not isinstance(messages, list):
        return f"messages is {shown(messages, 80)}"
    turns = []
    for message in messages[:8]:
        if isinstance(message, dict):
            content = message.get("content")
            size = len(content) if isinstance(content, str) else _type(content)
            turns.append(f"{shown(message.get('role'), 20)} {size}")
        else:
            turns.append(_type(message))
    return f"{len(messages)} turns: {', '.join(turns)}" if messages else "0 turns"


def shown(value: Any, characters: int) -> str:
    """The beginning of a JSON value, for people; what nests too deep to be written is named by its type alone."""
    return repr(value)[:characters] if is_writable(value) else f"{_type(value)}, nested too deep"


def is_writable(value: Any) -> bool:
    """Whether a value that was read from JSON can be written as JSON again: orjson reads 1024 levels, writes 254."""
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        return False
    return True


def _type(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def turns_of(messages: Sequence[dict[str, Any]]) -> list[Turn]:
    """Messages whose types are known to be right, as turns."""
    return [Turn(message["role"], message["content"]) for message in messages]


def check_turns(turns: Sequence[tuple[str, str]]) -> str | None:
    """The name of the rule about roles, order and emptiness that (role, content) pairs break, or None.

    Example: [("user", "가"), ("user", "나")] -> "role_order"; [("user", " "), ("assistant", "나")] -> "empty_turn"
    """
    if not turns:
        return "messages_empty"
    for role, content in turns:
        if role not in ROLES:
            return "role_unknown"
        if not content or content.isspace():
            return "empty_turn"
        if "\x00" in content:
            return "nul_character"
    spoken = turns[1:] if turns[0][0] == "system" else turns
    for position, (role, _) in enumerate(spoken):
        if role != ("user", "assistant")[position % 2]:
            return "role_order"
    return "no_answer" if len(spoken) % 2 or not spoken else None


def is_multi_turn(turns: Sequence[tuple[str, str]]) -> bool:
    """Whether a user speaks more than once.

    Example: system, user, assistant -> False; user, assistant, user, assistant -> True
    """
    return sum(1 for role, _ in turns if role == "user") > 1
