"""Seeded lines that a raw file should not hold and does: each kind names what is wrong with it.

`lines(count, seed)` gives `count` lines without newlines, every kind in turn, about one in six of them sound.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any

import orjson

Make = Callable[[random.Random], bytes]
VALUES: tuple[bytes, ...] = (
    b"null", b"true", b"0", b"-1.5", b'""', b'" "', b"[]", b"{}", b"[[]]", b'{"a":1}', b'"x"', b"1e308", b"[null]",
)  # fmt: skip
NUMBERS = (b"1e999", b"-1e400", b"9" * 400, b"123456789012345678901234567890", b"-0", b"1E-999", b"0.1e+309", b"NaN")
PLACES = ("messages", "message", "role", "content", "source", "id", "origin", "extra")
INVISIBLE = "\u200b\u200e\u200f\u202a\u202e\u2066\u2069\ufeff\u2028\u2029\x85\x0b\x0c\u0301\U000e0041"
HEBREW = "שלום עולם مرحبا"
HANJA = ("學校에서 工夫를 했습니다", "大韓民國의 首都는 서울입니다", "你好，这是一个完整的中文句子。", "金")
LONG_BYTES = 5_000_000


def lines(count: int, seed: int) -> Iterator[bytes]:
    """The lines; the rare 5 MB ones come once in a thousand."""
    rng = random.Random(seed)
    for number in range(count):
        make = _long if number % 1000 == 500 else KINDS[number % len(KINDS)]
        line = make(rng).replace(b"\n", b" ")
        yield line + b"\r" if number % 7 == 3 else line


def sound(rng: random.Random, extra: str = "") -> dict[str, Any]:
    """A row that every rule lets through."""
    one, other = rng.randrange(10**6), rng.randrange(1000)
    steps = f"1단계: {one}에 {other}를 더해서 살펴봅니다.\n2단계: 그래서 값은 {one + other}입니다."
    answer = f"<think>\n{steps}\n</think>\n\n정답: {one + other}{extra}"
    turns = [{"role": "user", "content": f"{one} 더하기 {other}은 얼마입니까?{extra}"}]
    return {"messages": [*turns, {"role": "assistant", "content": answer}], "source": f"s{one % 3}"}


def placed(rng: random.Random, place: str, value: bytes) -> bytes:
    """A sound row with raw JSON in the place of one of its values, or under a key of its own."""
    row = sound(rng)
    mark = f"mark{rng.randrange(10**9)}"
    turn = rng.choice(row["messages"])
    if place in ("role", "content"):
        turn[place] = mark
    elif place == "message":
        row["messages"][rng.randrange(2)] = mark
    else:
        row[place] = mark
    return orjson.dumps(row).replace(f'"{mark}"'.encode(), value)


def _sound(rng: random.Random) -> bytes:
    return orjson.dumps(sound(rng))


def _not_utf8(rng: random.Random) -> bytes:
    line = bytearray(_sound(rng))
    for _ in range(rng.randint(1, 4)):
        line[rng.randrange(len(line))] = rng.choice((0xFF, 0xC0, 0x80, 0xED, 0xF8, 0xFE))
    return bytes(line)


def _broken(rng: random.Random) -> bytes:
    line = bytearray(_sound(rng))
    for _ in range(rng.randint(1, 3)):
        del line[rng.choice([at for at, byte in enumerate(line) if byte in b'{}[]":,'])]
    return rng.choice((bytes(line), bytes(line).replace(b'"', b"'"), _sound(rng) + b",", _sound(rng) * 2))


def _truncated(rng: random.Random) -> bytes:
    line = _sound(rng)
    return line[: rng.randrange(len(line))]


def _deep(rng: random.Random) -> bytes:
    depth = rng.choice((200, 255, 300, 900, 1000, 1023, 1024, 1025, 10_000))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    nested = opening * depth + b"1" + closing * depth
    return nested if rng.random() < 0.2 else placed(rng, rng.choice(PLACES), nested)


def _number(rng: random.Random) -> bytes:
    return placed(rng, rng.choice(PLACES), rng.choice(NUMBERS))


def _nul(rng: random.Random) -> bytes:
    nul = rng.choice((b"\0", b"\\u0000"))
    if rng.random() < 0.3:
        line = bytearray(_sound(rng))
        line[rng.randrange(len(line))] = 0
        return bytes(line)
    return placed(rng, rng.choice(PLACES), b'"a' + nul + b'b"')


def _surrogate(rng: random.Random) -> bytes:
    lone = rng.choice((b"\\ud800", b"\\udfff", b"\xed\xa0\x80", b"\\ud83d", b"\\ude00\\ud83d"))
    return placed(rng, rng.choice(PLACES), b'"\xea\xb0\x80' + lone + b'"')


def _marked(rng: random.Random) -> bytes:
    return b"\xef\xbb\xbf" * rng.randint(1, 2) + _sound(rng)


def _empty(rng: random.Random) -> bytes:
    return rng.choice((b"", b"", b" ", b"\t \t", b"\x0b", b"\xc2\xa0", b"\xe3\x80\x80", b"\xef\xbb\xbf"))


def _scalar(rng: random.Random) -> bytes:
    return rng.choice((*VALUES, *NUMBERS, b"[" + _sound(rng) + b"]", b"{", b"}", b'"', b"\\", b"//", b"#"))


def _duplicate_keys(rng: random.Random) -> bytes:
    one, other = _sound(rng), _sound(rng)
    if rng.random() < 0.3:
        return one[:-1] + b',"messages":' + rng.choice(VALUES) + b"}"
    return one[:-1] + b"," + other[1:] if rng.random() < 0.5 else one.replace(b'"role":', b'"role":"x","role":')


def _wrong_type(rng: random.Random) -> bytes:
    return placed(rng, rng.choice(PLACES), rng.choice(VALUES))


def _without_a_key(rng: random.Random) -> bytes:
    row = sound(rng)
    if rng.random() < 0.3:
        del row["messages"]
    else:
        del row["messages"][rng.randrange(2)][rng.choice(("role", "content"))]
    return orjson.dumps(row)


def _invisible(rng: random.Random) -> bytes:
    row = sound(rng, "".join(rng.choice(INVISIBLE) for _ in range(rng.randint(1, 9))) + HEBREW)
    if rng.random() < 0.3:
        row["messages"][rng.randrange(2)]["content"] = rng.choice(INVISIBLE) * rng.randint(1, 5)
    if rng.random() < 0.2:
        row["source"] = rng.choice(INVISIBLE) + "../../etc/passwd"
    return orjson.dumps(row)


def _hanja(rng: random.Random) -> bytes:
    row = sound(rng, " " + rng.choice(HANJA) * rng.randint(1, 20))
    if rng.random() < 0.5:
        return orjson.dumps(row)
    import json

    return json.dumps(row).encode()  # every character as \u


def _roles(rng: random.Random) -> bytes:
    row = sound(rng)
    role = rng.choice(("system", "user", "assistant", "tool", "Assistant", "", "human"))
    row["messages"].insert(rng.randrange(3), {"role": role, "content": rng.choice(("", " ", "네"))})
    return orjson.dumps(row)


def _long(rng: random.Random) -> bytes:
    kind = rng.randrange(4)
    if kind == 0:
        return orjson.dumps(sound(rng, "가" * (LONG_BYTES // 6)))
    if kind == 1:
        return orjson.dumps(sound(rng, " 네" * (LONG_BYTES // 8)))
    if kind == 2:
        return b'{"messages": "' + b"\\" * LONG_BYTES
    return rng.randbytes(LONG_BYTES)


KINDS: tuple[Make, ...] = (
    _sound, _not_utf8, _broken, _truncated, _deep, _number, _nul, _surrogate, _marked, _sound, _empty, _scalar,
    _duplicate_keys, _wrong_type, _wrong_type, _wrong_type, _without_a_key, _sound, _invisible, _hanja, _roles,
)  # fmt: skip
