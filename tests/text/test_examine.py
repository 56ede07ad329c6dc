"""The fast path and the plain rule give equal findings, whatever the line."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.text.examine import (
    FastExaminer,
    Rules,
    content_key,
    examine,
    last_prompt_hash,
    normal_text,
    prompt_hashes,
)
from pipeline.text.settings import Columns
from tests.text.stages import chat

RULES = Rules(
    exclude=frozenset({"no"}),
    max_row_bytes=400,
    max_chars=60,
    overlap=frozenset(prompt_hashes([("user", "겹침"), ("assistant", "")])),
)
WORDS = [
    "가나",
    "漢字",
    "한자(漢字)",
    "今天天气很好",
    "hello",
    " ",
    "",
    "\x00",
    "\\u6f22",
    "겹침",
    "、ㅋ",
    "\U00020000",
    "𝓐",
]
CONTENT = st.one_of(
    st.sampled_from(WORDS), st.text(max_size=12), st.integers(), st.none(), st.lists(st.text(), max_size=1)
)
MESSAGE = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "tool", 3]), "content": CONTENT}),
    st.dictionaries(st.sampled_from(["role", "content", "name"]), CONTENT, max_size=3),
    CONTENT,
)
PLAIN_MESSAGE = st.tuples(st.sampled_from(WORDS), st.sampled_from(WORDS)).map(lambda pair: chat(*pair)["messages"])
ROW = st.fixed_dictionaries(
    {"messages": st.one_of(PLAIN_MESSAGE, st.lists(MESSAGE, max_size=4), CONTENT)},
    optional={"source": st.one_of(st.sampled_from(["no", "yes", ""]), CONTENT), "extra": CONTENT},
)


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """JSON lines of sound and unsound rows, escaped or not, then damaged here and there."""
    line = json.dumps(draw(ROW), ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    kind = draw(st.integers(0, 5))
    if kind == 0:
        place = draw(st.integers(0, len(line)))
        damage = draw(st.sampled_from([b"\xff", b"\\ud800", b"\x01", b"{", b'"', b"\xed\xa0\x80", b",", b"\r", b"\\"]))
        line = line[:place] + damage + line[place:]
    if kind == 1:
        line = line[: draw(st.integers(0, len(line)))]
    return line.replace(b"\n", b" ")


@settings(max_examples=400, deadline=None)
@given(st.lists(lines(), max_size=5))
@example([b'{"messages":' + b"[" * 390])
@example([b"", b"\xef\xbb\xbf{}", b"null", b"[1]", b'"a"', b"NaN", b'{"messages":[],"messages":3}'])
@example([b'{"messages":[{"role":"user","content":"\\ud800"},{"role":"assistant","content":"a"}]}'])
@example([b'{"messages":[{"role":"user","content":"\\u4f60\\u4eec"},{"role":"assistant","content":"a"}]}'])
def test_fast_and_plain_findings_are_equal(batch: list[bytes]) -> None:
    plain = [examine(line, "stem", RULES) for line in batch]
    fast = list(FastExaminer(RULES, "stem").findings(batch))
    for one, other, line in zip(plain, fast, batch, strict=True):
        assert one[:3] == other[:3], line
        assert [tuple(turn) for turn in one.turns] == [tuple(turn) for turn in other.turns], line


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200).map(lambda data: data.replace(b"\n", b"")))
def test_any_bytes_are_judged(line: bytes) -> None:
    assert examine(line, "stem", RULES)[:3] == next(FastExaminer(RULES, "stem").findings([line]))[:3]


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
    finding = next(FastExaminer(rules, "stem").findings([b'{"q": "1+1?", "a": "2", "s": "", "from": "math"}']))
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
