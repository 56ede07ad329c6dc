"""The fast ways and the plain rules give equal results, whatever the line: judgements in, output rows out."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.store.inputs import SourceFile
from pipeline.text.examine import Rules, judge, prompt_hashes
from pipeline.text.fast import FastExaminer, described
from pipeline.text.render import InputFile, Line, Renderer
from pipeline.text.settings import SystemPrompt
from pipeline.text.skeleton import Skeletons
from tests.text.stages import chat

BARE = Rules(exclude=frozenset({"no"}), max_row_bytes=500, max_chars=60)
OVERLAP = Rules(prompts=True, overlap=frozenset(prompt_hashes([("user", "겹침"), ("assistant", "")])))
PIECES = [
    "가나", "漢字", "한자(漢字)", "今天天气很好", "hello", " ", "", "\x00", "\x7f", "\\", '"', "\n", "\r\n", "\t", "\b",
    "/", "</", "겹침", "、ㅋ", "\u3000", "\u200b", "\u0085", "\x1c", "\ufeff", "\U00020000", "𝓐", "é", "߿", "ࠀ",
    "힣", "\ud7ff", "\ue000", "\U0010ffff", "%b",
]  # fmt: skip
ESCAPES = ["\\u6f22", "\\/", "\\ud800", "\\udc00\\ud800", "\\u0000", "\\q", "\\u12", "\\u0020"]
SOURCES = ['"no"', '"예"', '""', "null", '"a\\nb"']
DAMAGE = [
    b"\xff", b"\xc0\xaf", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf0\x80\x80\x80", b"\x80", b"\xea",
    b"\xec\xb0", b"\x01", b"\x00", b"{", b'"', b",", b"\\", b"\xef\xbb\xbf",
]  # fmt: skip
TEXT = st.one_of(st.lists(st.sampled_from(PIECES), max_size=4).map("".join), st.text(max_size=12))
HUGE = st.sampled_from(["1e999", "123456789012345678901234567890", "-0", "1E+2", "0.1e-7", "NaN", "-Infinity", "01"])
DEEP = st.integers(1, 1200).map(lambda depth: "[" * depth + "]" * depth)
OTHER = st.one_of(HUGE, DEEP, st.sampled_from(["null", "true", "{}", '[""]', "3"]))


@st.composite
def strings(draw: st.DrawFn) -> str:
    """A JSON string, now and then with some characters written as escapes: \\u6f22, \\ud83d\\ude00, \\/, \\ud800."""
    text = draw(TEXT)
    written = json.dumps(text, ensure_ascii=draw(st.booleans()))[1:-1]
    if draw(st.integers(0, 3)) == 0:
        written += draw(st.sampled_from(ESCAPES))
    return f'"{written}"'


KEYS = ["role", "content", "messages", "source", "name", "r\\u006fle", "c\\u006fntent"]


def members(draw: st.DrawFn, wanted: list[tuple[str, str]]) -> str:
    """A JSON object of these members; sometimes with a repeated, unknown or escaped key more."""
    space = draw(st.sampled_from(["", " ", "\t", "\r", "  "]))
    found = list(wanted)
    if draw(st.integers(0, 5)) == 0:
        found.insert(draw(st.integers(0, len(found))), (draw(st.sampled_from(KEYS)), draw(st.one_of(strings(), OTHER))))
    if draw(st.integers(0, 9)) == 0 and found:
        found.append(found[0])
    return "{" + f",{space}".join(f'{space}"{key}"{space}:{space}{value}' for key, value in found) + space + "}"


@st.composite
def messages(draw: st.DrawFn) -> str:
    role = st.one_of(st.sampled_from(['"user"', '"assistant"', '"system"', '"us\\u0065r"', '"tool"']), OTHER)
    orders = [["user", "assistant"], ["system", "user", "assistant"], ["user", "assistant"] * 2, ["user"], []]
    if draw(st.integers(0, 4)):
        roles = [f'"{name}"' for name in draw(st.sampled_from(orders))]
    else:
        roles = draw(st.lists(role, max_size=4))
    content = strings() if draw(st.integers(0, 4)) else st.one_of(strings(), OTHER)
    return "[" + ",".join(members(draw, [("role", name), ("content", draw(content))]) for name in roles) + "]"


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """JSON lines of sound and unsound rows, then damaged here and there."""
    wanted = [("messages", draw(st.one_of(messages(), messages(), messages(), OTHER)))]
    if draw(st.booleans()):
        wanted.append(("source", draw(st.one_of(st.sampled_from(SOURCES), strings(), OTHER))))
    line = members(draw, wanted).encode("utf-8", "surrogatepass")
    kind = draw(st.integers(0, 8))
    if kind == 0:
        place = draw(st.integers(0, len(line)))
        line = line[:place] + draw(st.sampled_from(DAMAGE)) + line[place:]
    if kind == 1:
        line = line[: draw(st.integers(0, len(line)))]
    if kind == 2:
        line += b"\r"
    if kind == 3:
        line = b"\xef\xbb\xbf" + line
    return line.replace(b"\n", b" ")


@pytest.mark.parametrize("rules", [BARE, Rules(), OVERLAP], ids=["bare", "default", "overlap"])
@settings(max_examples=250, deadline=None)
@given(batch=st.lists(lines(), min_size=1, max_size=6))
@example(batch=[b'{"messages":' + b"[" * 390])
@example(batch=[b"", b"\xef\xbb\xbf{}", b"null", b"[1]", b'"a"', b"NaN", b'{"messages":[],"messages":3}'])
@example(batch=[json.dumps(chat("\ud800", "a")).encode(), json.dumps(chat("你们", "a")).encode()])
@example(
    batch=[b'{"messages":[{"role":"user","content":"\xea\xb0\x80","content":"x"},{"role":"assistant","content":"a"}]}']
)
@example(batch=[b'{"messages":[{"role":"user","content":"\xed\xa0\x80"},{"role":"assistant","content":"a"}]}'])
@example(batch=[b'{"messages":[{"role":"user","content":"\xea\xb0"},{"role":"assistant","content":"a"}]}', b"\x80"])
def test_fast_and_plain_judgements_are_equal(rules: Rules, batch: list[bytes]) -> None:
    plain = [judge(line, "줄기", rules) for line in batch]
    fast = FastExaminer(rules, "줄기").judged(b"\n".join(batch), batch)
    for one, other, line in zip(plain, fast, batch, strict=True):
        assert tuple(one) == tuple(other), line


LAYOUTS = [
    '{"messages": [{"role": "user", "content": %s}, {"role": "assistant", "content": %s}], "source": "예"}',
    '{"source":"s1","messages":[{"content":%s,"role":"user"},{"content":%s,"role":"assistant"}]}',
    '{"messages":[{"role":"system","content":"role"},{"role":"user","content":%s},{"role":"assistant","content":%s}]}',
    '{"messages":[{"role":"user","content":"가","content":%s},{"role":"assistant","content":%s,"role":"assistant"}]}',
]
WRITTEN = [
    "role",
    "content",
    "messages",
    "user",
    '"}, {"role": "assistant", "content": "',
    '"}]}',
    "content-0",
    "]",
    "\\",
]


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_lines_that_differ_in_contents_alone_are_judged_like_any_others(data: st.DataObject) -> None:
    content = st.one_of(
        strings(), st.sampled_from(WRITTEN).map(json.dumps), st.sampled_from(WRITTEN).map('"{}"'.format)
    )
    batch = []
    for _ in range(data.draw(st.integers(2, 8))):
        line = data.draw(st.sampled_from(LAYOUTS)) % (data.draw(content), data.draw(content))
        batch.append(line.encode("utf-8", "surrogatepass").replace(b"\n", b" "))
    fast = FastExaminer(BARE, "stem")
    for lines in (batch, batch[::-1]):
        assert fast.judged(b"\n".join(lines), lines) == [judge(line, "stem", BARE) for line in lines]


def test_a_skeleton_is_learned_from_one_line_and_fits_the_others() -> None:
    skeletons = Skeletons(described)
    one, other = (
        json.dumps(chat(*pair, source="예"), ensure_ascii=False).encode() for pair in [("가", "role"), ("", "나다")]
    )
    assert skeletons.fit(one) is None
    skeletons.learn(one, ["가".encode(), b"role"])
    assert skeletons.fit(other) is None  # "role" stands in the line before it stands as a content
    skeletons.learn(other.replace("나다".encode(), b"x"), [b"", b"x"])
    fitting = skeletons.fit(one)
    assert fitting is not None and fitting[1] == ["가".encode(), b"role"]
    assert skeletons.fit(one[:-1]) is None and skeletons.fit(one.replace(b'"role": "user"', b'"role": "usEr"')) is None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200).map(lambda data: data.replace(b"\n", b"")))
def test_any_bytes_are_judged(line: bytes) -> None:
    assert [judge(line, "stem", Rules())] == FastExaminer(Rules(), "stem").judged(line, [line])


PROMPTS = [{"mode": "keep"}, {"mode": "add", "text": '너는 "도우미"\n'}, {"mode": "replace", "text": "한국어로"}]


def renderer(prompt: dict[str, Any]) -> Renderer:
    files = [InputFile(SourceFile("a.jsonl.gz", "file:///a", 1, ""), '예 "a".jsonl.gz')]
    return Renderer(files, ['출처 "1"'], Rules(), SystemPrompt(**prompt))


@settings(max_examples=500, deadline=None)
@given(lines(), st.sampled_from(PROMPTS))
@example(b'{"messages":[{"role":"user","content":"\\/\\u007f\\b"},{"role":"assistant","content":"a"}]}', PROMPTS[0])
def test_spliced_and_serialised_rows_are_equal(line: bytes, prompt: dict[str, Any]) -> None:
    if judge(line, "", Rules(chinese=None)).reason:
        return
    place = Line(0, len(line), 0, 17, 0, 0, 0, 0, 1, 2**63)
    made = renderer(prompt)
    assert made.row(place, line) == orjson.dumps(made.plain_row(place, line))
