"""One raw line judged: a sound conversation, or the first rule that it breaks.

Two ways give equal findings: `examine` (orjson, the plain rule) and `FastExaminer` (typed msgspec decoding and one
byte scan for Han per block), which hands every line that it does not understand to the plain rule.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import orjson
import xxhash

from pipeline.text.chatml import Turn, check_messages, check_turns, shown, turns_of
from pipeline.text.chinese import DEFAULT_RULE, ChineseRule, judge_chinese
from pipeline.text.settings import Columns

# The position of a reason is its code in the records of the first pass: only ever append.
REASONS = (
    "", "not_utf8", "broken_json", "too_long_line", "row_type", "source_type", "messages_missing", "messages_type",
    "messages_empty", "message_type", "role_missing", "role_type", "role_unknown", "content_missing", "content_type",
    "empty_turn", "nul_character", "role_order", "no_answer", "source_excluded", "too_many_chars", "chinese", "overlap",
    "duplicate",
)  # fmt: skip
SCHEMA_REASONS = frozenset(REASONS[REASONS.index("messages_missing") : REASONS.index("source_excluded")])
CHATML = Columns()
CODES = {reason: code for code, reason in enumerate(REASONS)}
_SPACES = re.compile(r"\s+")
# Every byte that can begin a Han character in UTF-8: ideographs E3 to E9, compatibility EF, planes 2 and 3 F0.
_NOT_HAN = bytes(byte for byte in range(256) if byte not in {*range(0xE3, 0xEA), 0xEF, 0xF0, 0x0A})


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


def examine(line: bytes, stem: str, rules: Rules) -> Finding:
    """The plain rule: judge one line; `stem` is the source of rows that name none.

    Example: b'{"messages": []}', "kowiki" -> Finding("messages_empty", "", "kowiki", [])
    """
    if len(line) > rules.max_row_bytes:
        return Finding("too_long_line", f"{len(line)} bytes, max_row_bytes is {rules.max_row_bytes}", stem, [])
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return Finding("not_utf8", f"byte {line[error.start]:#04x} at {error.start}", stem, [])
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return Finding("broken_json", error.msg, stem, [])
    if not isinstance(row, dict):
        return Finding("row_type", f"{type(row).__name__}, a row is an object", stem, [])
    source = row.get(rules.columns.source)
    if source is not None and not isinstance(source, str):
        return Finding("source_type", shown(source, 80), stem, [])
    messages = messages_of(row, rules.columns)
    reason = check_messages(messages)
    if reason:
        return Finding(reason, "", source or stem, [])
    return _judged(turns_of(messages), source or stem, rules, may_have_han=True)


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


def _judged(turns: Sequence[tuple[str, str]], source: str, rules: Rules, may_have_han: bool) -> Finding:
    """The rules about content, for turns that are a sound conversation."""
    if source in rules.exclude or (rules.include is not None and source not in rules.include):
        return Finding("source_excluded", "", source, turns)
    if rules.max_chars is not None and (chars := characters(turns)) > rules.max_chars:
        return Finding("too_many_chars", f"{chars} characters, max_chars is {rules.max_chars}", source, turns)
    if may_have_han and rules.chinese is not None:
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
    return _SPACES.sub(" ", unicodedata.normalize("NFKC", text)).strip()


class _Message(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: str
    content: str


class _Row(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    messages: list[_Message]
    source: str | None = None


class FastExaminer:
    """The same findings, block by block."""

    def __init__(self, rules: Rules, stem: str) -> None:
        self._rules = rules
        self._stem = stem
        self._plain_only = rules.columns != CHATML
        self._decode = msgspec.json.Decoder(_Row).decode

    def findings(self, lines: list[bytes]) -> Iterator[Finding]:
        """One finding per line. Lines hold no newline."""
        if self._plain_only or not lines:
            yield from (examine(line, self._stem, self._rules) for line in lines)
            return
        residues = b"\n".join(lines).translate(None, _NOT_HAN).split(b"\n")
        for line, residue in zip(lines, residues, strict=True):
            yield self._finding(line, bool(residue) or b"\\u" in line)

    def _finding(self, line: bytes, may_have_han: bool) -> Finding:
        rules = self._rules
        if len(line) > rules.max_row_bytes:
            return examine(line, self._stem, rules)
        try:
            row = self._decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return examine(line, self._stem, rules)
        turns = [(message.role, message.content) for message in row.messages]
        source = row.source or self._stem
        reason = check_turns(turns)
        if reason:
            return Finding(reason, "", source, [])
        return _judged(turns, source, rules, may_have_han)
