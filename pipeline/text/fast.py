"""The plain rule of `examine` at full speed, a block of lines at a time.

Most lines are recognised by their skeleton or decoded by their type only, with contents left as the bytes that they
are: their key, their length and that they are sound follow from the bytes. Every line that this does not understand, or
that might hold Han characters, goes to the plain rule, so that all ways judge alike.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import xxhash

from pipeline.text.chatml import check_turns, is_multi_turn
from pipeline.text.examine import CHATML, Judged, Rules, judge
from pipeline.text.skeleton import Skeletons

# Bytes that make a line suspect. Those that can begin a Han character in UTF-8: ideographs E3 to E9, compatibility EF,
# planes 2 and 3 F0; those that `_continued` does not look behind: C0 and C1 (overlong), E0, F1 and above; and
# control characters, which end no skeleton's content but are not allowed in one.
_SUSPECT = {*range(0x20), 0xC0, 0xC1, 0xE0, *range(0xE3, 0xEA), *range(0xEF, 0x100)}
_UNSUSPECT = bytes(byte for byte in range(256) if byte not in _SUSPECT)
# First bytes of characters that are no spaces: visible ASCII, and U+A000 to U+DFFF with all Hangul syllables.
_VISIBLE = frozenset([*range(0x21, 0x7F), *range(0xEA, 0xEE)])
_read_text = msgspec.json.Decoder(str).decode


class _Message(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: Literal["system", "user", "assistant"]
    content: msgspec.Raw


class _Row(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    messages: list[_Message]
    source: str | None = None


class _Shape(NamedTuple):
    """A sound order of roles. `template` takes the contents to what `content_key` hashes, adding `added` bytes."""

    system: bool
    template: bytes
    added: int
    multi: bool


class _Frame(NamedTuple):
    """What a line is apart from its contents: the order of roles, and the source that it names."""

    shape: _Shape
    source: str | None


class FastExaminer:
    """Judges lines as `examine.judge` does."""

    def __init__(self, rules: Rules, stem: str) -> None:
        self._rules = rules
        self._stem = stem
        self._skeletons = Skeletons(described)
        self._plain_only = rules.columns != CHATML or rules.wants_text

    def judged(self, data: bytes, lines: Sequence[bytes]) -> list[Judged]:
        """One judgement per line. `data` is the lines joined by newlines; best when a core's cache holds it."""
        residues = data.translate(None, _UNSUSPECT).split(b"\n")
        continued = None if self._plain_only else _continued(data, lines)
        if continued is None:
            continued = [-1] * len(lines)
        found = []
        for line, residue, count in zip(lines, residues, continued, strict=True):
            escaped = b"\\" in line  # one byte is found much faster than two
            if residue or (escaped and b"\\u" in line):
                found.append(judge(line, self._stem, self._rules))
            else:
                quick = self._quick(line, escaped, count) if count >= 0 else None
                found.append(quick or judge(line, self._stem, self._rules, may_have_han=False))
        return found

    def _quick(self, line: bytes, escaped: bool, continued: int) -> Judged | None:
        """The judgement of a sound row without suspect bytes or \\u escapes; None when only the plain rule can tell.

        `continued`: how many bytes of the line are later bytes of a character.
        """
        rules = self._rules
        if len(line) > rules.max_row_bytes:
            return None
        try:
            fitting = self._skeletons.fit(line)
            if fitting is None:
                whole = described(line)
                if whole is None:
                    return None
                contents, (shape, source) = whole
                continued = sum(map(_continued_in, contents))
                if not escaped:
                    self._skeletons.learn(line, contents)
            else:
                skeleton, contents = fitting
                shape, source = skeleton.row
                continued -= skeleton.continued
            if escaped:
                contents = [_unescaped(content) for content in contents]
        except msgspec.MsgspecError:  # a wrong escape
            return None
        for content in contents:
            if not content or (content[0] not in _VISIBLE and content.decode().isspace()):
                return None
        system = contents.pop(0) if shape.system else b""
        spoken = shape.template % tuple(contents)
        chars = len(system) + len(spoken) - shape.added - continued
        source = source or self._stem
        excluded = source in rules.exclude or (rules.include is not None and source not in rules.include)
        if excluded or (rules.max_chars is not None and chars > rules.max_chars):
            return None
        return Judged("", source, xxhash.xxh3_128_digest(spoken), chars, shape.multi)


_decode = msgspec.json.Decoder(_Row).decode


def described(line: bytes) -> tuple[list[bytes], _Frame] | None:
    """A row's contents as they are written, and what it is apart from them; None when only the plain rule can tell."""
    try:
        row = _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    contents = [bytes(message.content) for message in row.messages]
    shape = _shape(tuple([message.role for message in row.messages]))
    if shape is None or any(content[:1] != b'"' for content in contents):
        return None
    return [content[1:-1] for content in contents], _Frame(shape, row.source)


@lru_cache(4096)
def _shape(roles: tuple[str, ...]) -> _Shape | None:
    """What follows from the roles; None when they are no sound conversation.

    Example: ("user", "assistant") -> template b"user\\0%b\\0assistant\\0%b", 16 bytes added
    """
    turns = [(role, "x") for role in roles]
    if check_turns(turns):
        return None
    system = roles[0] == "system"
    template = b"\0".join(b"%b\0%%b" % role.encode() for role in roles[system:])
    return _Shape(system, template, len(template) - 2 * len(roles[system:]), is_multi_turn(turns))


def _unescaped(content: bytes) -> bytes:
    """The UTF-8 bytes of a content as it is written, without \\u escapes. Raises msgspec's error for a wrong escape.

    Example: b"a\\\\nb" (backslash, n) -> b"a\\nb"
    """
    if b"\\" not in content:
        return content
    text = content.replace(b"\\n", b"\n")
    return _read_text(b'"%b"' % content).encode() if b"\\" in text else text


def _continued_in(content: bytes) -> int:
    return sum(0x80 <= byte < 0xC0 for byte in content)


def _continued(data: bytes, lines: Sequence[bytes]) -> list[int] | None:
    """How many bytes of each line are later bytes of a character; None when sequences are broken in some line.

    A sequence is whole when it has the bytes that its first byte announces, and no half of a surrogate pair; suspect
    bytes are not looked behind. Byte i continues a character just when a first byte of 2, 3 or 4 bytes lies at i-1, one
    of 3 or 4 at i-2, or one of 4 at i-3.
    """
    byte = np.frombuffer(data + b"\n\n\n", np.uint8)
    continues = byte.view(np.int8) < -64
    announced = np.zeros(len(byte), bool)
    announced[1:] = byte[:-1] >= 0xC0
    announced[2:] |= byte[:-2] >= 0xE0
    announced[3:] |= byte[:-3] >= 0xF0
    if not np.array_equal(announced, continues):
        return None
    if ((byte[:-1] == 0xED) & (byte[1:] >= 0xA0)).any():  # ED A0 to ED BF: halves of surrogate pairs
        return None
    lengths = np.fromiter(map(len, lines), np.int64, len(lines)) + 1
    counts = np.add.reduceat(continues.view(np.uint8), np.cumsum(lengths) - lengths, dtype=np.int64)
    return [*counts.tolist()]
