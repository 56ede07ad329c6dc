"""The compiled row reader and the plain rules give equal results, whatever the line: records in, output rows out."""

import json
import os
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.store.inputs import SourceFile
from pipeline.text.compiled import has_row_reader, source_digest
from pipeline.text.examine import Rules, judge, prompt_hashes
from pipeline.text.records import ScanUnit
from pipeline.text.render import LINE, InputFile, Line, Renderer
from pipeline.text.rowreader import COMPILED_FROM, RowReader
from pipeline.text.scan import scan
from pipeline.text.settings import Columns, SystemPrompt
from tests.text.stages import chat

RULES = {
    "bare": Rules(exclude=frozenset({"no"}), max_row_bytes=500, max_chars=60),
    "default": Rules(),
    "overlap": Rules(prompts=True, overlap=frozenset(prompt_hashes([("user", "겹침"), ("assistant", "")]))),
}
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


class Memory(SourceFile):
    """A file whose bytes are its tag."""

    def read_range(self, start: int, end: int) -> bytes:
        return self.tag.encode("latin-1")[start:end]


def scanned(data: bytes, rules: Rules, compiled: bool) -> list[tuple[Any, ...]]:
    """What the first pass keeps of a file, with sources by name; then how many lines there are, and blank ones."""
    file = Memory("줄기.jsonl", "memory", len(data), data.decode("latin-1"))
    found: list[tuple[Any, ...]] = []
    lines = blank = 0
    for piece in scan(file, ScanUnit(0, 0, len(data)), rules, compiled):
        found.extend((*record[:-3], piece.sources[record[-3]], *record[-2:]) for record in piece.records.tolist())
        lines, blank = lines + piece.lines, blank + piece.blank
    return [*found, (lines, blank)]


def undecided(lines: list[bytes], rules: Rules = RULES["default"]) -> list[bytes]:
    """The lines that the compiled reader leaves to the plain rule."""
    data = b"\n".join(lines)
    reader = RowReader(rules, lambda name: 0 if name is None else len(name))
    return [data[start:end] for _, start, end in reader.judge(data, 0, bytearray(), 0, 0)[0]]


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@settings(max_examples=200, deadline=None)
@given(batch=st.lists(lines(), min_size=1, max_size=6))
@example(batch=[b'{"messages":' + b"[" * 390])
@example(batch=[b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b","c"}]}'])
@example(batch=[b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},]}'])
@example(batch=[b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b",}],}'])
@example(batch=[b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"n":{"a"},"m":[1,]}'])
@example(batch=[b"", b"\xef\xbb\xbf{}", b"null", b"[1]", b'"a"', b"NaN", b'{"messages":[],"messages":3}', b" \x0b\r"])
@example(batch=[json.dumps(chat("\ud800", "a")).encode(), json.dumps(chat("你们", "a")).encode()])
@example(batch=[json.dumps(chat("x" * 15, "가" * 15), ensure_ascii=False).encode() + b" \r"] * 2)
@example(
    batch=[b'{"messages":[{"role":"user","content":"\xea\xb0\x80","content":"x"},{"role":"assistant","content":"a"}]}']
)
@example(batch=[b'{"messages":[{"role":"user","content":"\xed\xa0\x80"},{"role":"assistant","content":"a"}]}'])
@example(batch=[b'{"messages":[{"role":"user","content":"\xea\xb0"},{"role":"assistant","content":"a"}]}', b"\x80"])
def test_compiled_and_plain_records_are_equal(rules: Rules, batch: list[bytes]) -> None:
    data = b"\n".join(batch)
    assert scanned(data, rules, compiled=True) == scanned(data, rules, compiled=False)


SOUND = json.dumps(
    {
        "id": "행-1",
        "messages": [
            {"role": "system", "content": "너는"},
            {"role": "user", "content": 'a\n"가" 𝓐ㅋ', "name": None, "weight": -0.5},
            {"content": "é\\ 2 漢", "role": "assistant"},
            {"role": "user", "content": "힣" * 9},
            {"role": "assistant", "content": "나"},
        ],
        "source": "예",
        "meta": {"n": [1, -20, 0, 3.25], "t": [True, False, None, {}, []], "s": "\u0007/"},
    },
    ensure_ascii=False,
).encode()


@pytest.mark.parametrize("rules", [Rules(chinese=None), Rules(chinese=None, prompts=True)], ids=["bare", "prompts"])
def test_every_byte_at_every_place_of_a_sound_line(rules: Rules) -> None:
    assert undecided([SOUND], rules) == []
    step = int(os.environ.get("HANFORGE_ROWREADER_STEP", "7"))  # 1: every byte value at every place
    for place in range(len(SOUND)):
        changed = [SOUND[:place] + bytes([byte]) + SOUND[place + 1 :] for byte in range(place % step, 256, step)]
        changed += [SOUND[:place] + bytes([byte]) + SOUND[place:] for byte in range(place % step, 256, step)]
        changed += [SOUND[:place], SOUND[place:], SOUND[:place] + SOUND[place + 1 :]]
        data = b"\n".join(line.replace(b"\n", b"\r") for line in changed)
        assert scanned(data, rules, compiled=True) == scanned(data, rules, compiled=False), place


@pytest.mark.parametrize(
    "line",
    [
        b' {"source":null ,"messages":[ {"content" : "a" ,"role":"user"},{"role":"assistant","content":"b"}\t]} \r',
        b'{"messages":[{"role":"user","content":"\\u0041\\ud83d\\ude00\\/\\b\\f\\r\\t\\""},'
        b'{"role":"assistant","content":"b"}]}',
        json.dumps(chat("ㅋㅋ 😀 、。「」", "１\u00a0…", source="s", id=17, tags=["漢"[:0], 1.5, [[{}]]])).encode(),
        json.dumps(chat("ㅋㅋ 😀 、。「」", "１\u00a0…", source="s"), ensure_ascii=False).encode(),
        json.dumps(
            {"messages": [{"role": ("user", "assistant")[n % 2], "content": "가"} for n in range(256)]}
        ).encode(),
    ],
)
def test_what_sound_rows_look_like_is_decided(line: bytes) -> None:
    assert undecided([line]) == [] == undecided([line], Rules(prompts=True))


@pytest.mark.parametrize(
    "line",
    [
        SOUND,  # Han
        json.dumps(chat("가", "漢")).encode(),
        json.dumps(chat("가", "a")).encode()[:-1],
        b'{"messages":[{"role":"user","content":"a","content":"a"},{"role":"assistant","content":"b"}]}',
        b'{"messages":[{"role":"user","content":" "},{"role":"assistant","content":"b"}]}',
        b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"n":1e999}',
        b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"sourc\\u0065":"x"}',
        json.dumps(
            {"messages": [{"role": ("user", "assistant")[n % 2], "content": "가"} for n in range(258)]}
        ).encode(),
    ],
)
def test_what_may_not_be_sound_is_left_to_the_plain_rule(line: bytes) -> None:
    assert undecided([line]) == [line]


def test_named_columns_are_read_and_others_are_left_to_the_plain_rule() -> None:
    line = json.dumps({"대화": chat("가", "나")["messages"], "출처": "s"}, ensure_ascii=False).encode()
    columns = Columns(messages="대화", source="출처")
    assert undecided([line], Rules(columns=columns)) == []
    for chosen in (columns, Columns(), Columns(messages="출처", source="출처"), Columns(user="대화", assistant="출처")):
        rules = Rules(columns=chosen)
        assert scanned(line, rules, compiled=True) == scanned(line, rules, compiled=False)


@settings(max_examples=300, deadline=None)
@given(
    st.text(
        st.one_of(st.sampled_from(" \n\t\x1c가힣a.Ａ\u1100\u1161\u11a8ㅋ…\u3000\u00a0é\u0301"), st.characters()),
        max_size=9,
    )
)
def test_prompts_are_named_alike(text: str) -> None:
    data = json.dumps(chat("x" + text, "나"), ensure_ascii=False).encode("utf-8", "surrogatepass").replace(b"\n", b" ")
    rules = Rules(prompts=True, chinese=None)
    assert scanned(data, rules, compiled=True) == scanned(data, rules, compiled=False)


def test_the_compiled_reader_is_the_one_that_lies_here() -> None:
    assert has_row_reader() and source_digest() == COMPILED_FROM


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


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_lines_that_differ_in_contents_alone_are_judged_like_any_others(data: st.DataObject) -> None:
    content = st.one_of(
        strings(), st.sampled_from(WRITTEN).map(json.dumps), st.sampled_from(WRITTEN).map('"{}"'.format)
    )
    batch = []
    for _ in range(data.draw(st.integers(2, 8))):
        line = data.draw(st.sampled_from(LAYOUTS)) % (data.draw(content), data.draw(content))
        batch.append(line.encode("utf-8", "surrogatepass").replace(b"\n", b" "))
    block = b"\n".join(batch)
    assert scanned(block, RULES["bare"], compiled=True) == scanned(block, RULES["bare"], compiled=False)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_judged(data: bytes) -> None:
    assert scanned(data, Rules(), compiled=True) == scanned(data, Rules(), compiled=False)


PROMPTS = [{"mode": "keep"}, {"mode": "add", "text": '너는 "도우미"\n'}, {"mode": "replace", "text": "한국어로"}]


def written(line: bytes, prompt: dict[str, Any], compiled: bool) -> list[bytes]:
    """The output rows of a line that stands twice in a window."""
    files = [InputFile(SourceFile("a.jsonl.gz", "file:///a", 1, ""), '예 "a".jsonl.gz')]
    made = Renderer(files, ['출처 "1"'], Rules(), SystemPrompt(**prompt), compiled=compiled)
    entries = [Line(7, len(line), 0, 17, 0, 0, 0, 0, 1, 2**63), Line(8 + len(line), len(line), 0, 4, 0, 0, 0, 0, 2, 3)]
    pieces = [*made.rows(b"xx" + line + b"\n" + line, 5, np.array(entries, LINE))]
    assert sum(rows for _, rows in pieces) == 2
    return b"".join(piece for piece, _ in pieces).splitlines()


@settings(max_examples=500, deadline=None)
@given(lines(), st.sampled_from(PROMPTS))
@example(b'{"messages":[{"role":"user","content":"\\/\\u007f\\b"},{"role":"assistant","content":"a"}]}', PROMPTS[0])
@example(SOUND, PROMPTS[0])
@example(SOUND, PROMPTS[1])
@example(SOUND, PROMPTS[2])
def test_spliced_and_serialised_rows_are_equal(line: bytes, prompt: dict[str, Any]) -> None:
    if not judge(line, "", Rules(chinese=None)).reason:
        assert written(line, prompt, compiled=True) == written(line, prompt, compiled=False)
