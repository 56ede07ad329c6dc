"""One raw line judged: a sound conversation, or the first rule that it breaks. This is the plain rule.

`rowreader` judges most lines without it, and must judge them alike.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
import xxhash

from pipeline.text.chatml import Turn, check_messages, is_multi_turn, shown, turns_of
from pipeline.text.chinese import DEFAULT_RULE, ChineseRule, judge_chinese
from pipeline.text.settings import Columns

# The position of a reason is its code in the records of the first pass: only ever append.
REASONS = (
    "", "not_utf8", "broken_json", "too_long_line", "row_type", "source_type", "messages_missing", "messages_type",
    "messages_empty", "message_type", "role_missing", "role_type", "role_unknown", "content_missing", "content_type",
    "empty_turn", "nul_character", "role_order", "no_answer", "source_excluded", "too_many_chars", "chinese", "overlap",
    "duplicate", "overlap_ngram", "near_duplicate",
)  # fmt: skip
SCHEMA_REASONS = frozenset(REASONS[REASONS.index("messages_missing") : REASONS.index("source_excluded")])
CHATML = Columns()
CODES = {reason: code for code, reason in enumerate(REASONS)}
NO_KEY = bytes(16)


@dataclass(frozen=True)
class Rules:
    """What the first pass asks of a row; `overlap` holds prompt hashes, `prompts` says whether to compute them."""

    columns: Columns = CHATML
    include: frozenset[str] | None = None
    exclude: frozenset[str] = frozenset()
    max_row_bytes: int = 4_194_304
    max_chars: int | None = None
    chinese: ChineseRule | None = DEFAULT_RULE
    prompts: bool = False
    overlap: frozenset[int] = field(default=frozenset(), repr=False)


class Finding(NamedTuple):
    """What a line is: `reason` is empty for a sound row; `turns` is empty where the row has no sound conversation."""

    reason: str
    detail: str
    source: str
    turns: Sequence[tuple[str, str]]


class Judged(NamedTuple):
    """What the first pass records of a line. A line that is not sound has no key; `prompt` and `opening` are hashes."""

    reason: str
    source: str
    key: bytes
    chars: int
    multi: bool
    prompt: int = 0
    opening: int = 0


def judge(line: bytes, stem: str, rules: Rules) -> Judged:
    """Examine a line and keep what the first pass records of it."""
    reason, _, source, turns = examine(line, stem, rules)
    chars, multi = characters(turns), is_multi_turn(turns)
    if reason:
        return Judged(reason, source, NO_KEY, chars, multi)
    hashes = prompt_hashes(turns) if rules.prompts else [0]
    return Judged(reason, source, content_key(turns), chars, multi, hashes[-1], hashes[0])


def examine(line: bytes, stem: str, rules: Rules) -> Finding:
    """The plain rule: judge one line; `stem` is the source of rows that name none.

    Example: b'{"messages": []}', "kowiki" -> Finding("messages_empty", "", "kowiki", [])
    """
    if len(line) > rules.max_row_bytes:
        return Finding("too_long_line", f"{len(line)} bytes, max_row_bytes is {rules.max_row_bytes}", stem, [])
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return _unreadable(line, error, stem)
    if not isinstance(row, dict):
        return Finding("row_type", f"{type(row).__name__}, a row is an object", stem, [])
    source = row.get(rules.columns.source)
    if source is not None and not isinstance(source, str):
        return Finding("source_type", shown(source, 80), stem, [])
    messages = messages_of(row, rules.columns)
    reason = check_messages(messages)
    if reason:
        return Finding(reason, "", source or stem, [])
    return _judged(turns_of(messages), source or stem, rules)


def _unreadable(line: bytes, broken: orjson.JSONDecodeError, stem: str) -> Finding:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return Finding("not_utf8", f"byte {line[error.start]:#04x} at {error.start}", stem, [])
    return Finding("broken_json", broken.msg, stem, [])


def messages_of(row: dict[str, Any], columns: Columns) -> Any:
    """A row's messages, made of its question and answer columns where the recipe names them.

    Example: {"q": "1+1?", "a": "2"} with user: q, assistant: a -> [{"role": "user", ...}, {"role": "assistant", ...}]
    """
    if columns.user is None or columns.assistant is None:
        return row.get(columns.messages)
    messages = [{"role": "user", "content": row.get(columns.user)}]
    messages.append({"role": "assistant", "content": row.get(columns.assistant)})
    if columns.system is not None and row.get(columns.system) not in (None, ""):
        messages.insert(0, {"role": "system", "content": row[columns.system]})
    return messages


def _judged(turns: Sequence[tuple[str, str]], source: str, rules: Rules) -> Finding:
    """The rules about content, for turns that are a sound conversation."""
    if source in rules.exclude or (rules.include is not None and source not in rules.include):
        return Finding("source_excluded", "", source, turns)
    if rules.max_chars is not None and (chars := characters(turns)) > rules.max_chars:
        return Finding("too_many_chars", f"{chars} characters, max_chars is {rules.max_chars}", source, turns)
    if rules.chinese is not None:
        for position, (role, content) in enumerate(turns):
            verdict = judge_chinese(content, rules.chinese)
            if verdict.chinese:
                return Finding("chinese", f"turn {position} ({role}): {verdict.why}", source, turns)
    if rules.overlap and not rules.overlap.isdisjoint(prompt_hashes(turns)):
        return Finding("overlap", "holds a prompt of exclude_overlap_with", source, turns)
    return Finding("", "", source, turns)


def characters(turns: Sequence[tuple[str, str]]) -> int:
    """The length of a row: characters of all its turns."""
    return sum(len(content) for _, content in turns)


def content_key(turns: Sequence[tuple[str, str]]) -> bytes:
    """The 16 bytes that name a conversation: a hash of its roles and contents without the system turn.

    No content holds a NUL (`chatml` sees to it), so it separates the parts without ambiguity.
    """
    parts = [part for turn in turns if turn[0] != "system" for part in turn]
    return xxhash.xxh3_128_digest("\0".join(parts).encode())


def prompt_hashes(turns: Sequence[tuple[str, str]]) -> list[int]:
    """64-bit hashes of every prompt in a conversation, shortest first: what stands before each assistant turn.

    Compared after NFKC and with every run of spaces as one; the system turn is left out.
    Example: user, assistant, user, assistant -> [hash(user), hash(user, assistant, user)]
    """
    hashes: list[int] = []
    running = xxhash.xxh3_64()
    for role, content in turns:
        if role == "system":
            continue
        if role == "assistant":
            hashes.append(running.intdigest())
        running.update(f"{role}\0{normal_text(content)}\0".encode())
    return hashes


def last_prompt_hash(turns: Sequence[tuple[str, str]]) -> int:
    """The hash of a row's prompt; of all its turns when it has no answer (a row of predictions)."""
    open_ended = turns[-1][0] != "assistant"
    return prompt_hashes([*turns, Turn("assistant", "")] if open_ended else turns)[-1]


def normal_text(text: str) -> str:
    """NFKC, runs of spaces as one, none at the ends. Example: "１ +\\n 2 " -> "1 + 2"."""
    return " ".join(unicodedata.normalize("NFKC", text).split())
