"""The plain rule of `examine` at full speed, a block of lines at a time.

Most lines are decoded by their type only, with contents left as the bytes that they are: their key, their length and
that they are sound follow from the bytes. Every line that this does not understand, or that might hold Han characters,
goes to the plain rule, so that both ways judge alike.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import xxhash

from pipeline.text.chatml import check_turns, is_multi_turn
from pipeline.text.examine import CHATML, Judged, Rules, judge

# Bytes that make a line suspect. Those that can begin a Han character in UTF-8: ideographs E3 to E9, compatibility EF,
# planes 2 and 3 F0; and those that `_whole_sequences` does not look behind: C0 and C1 (overlong), E0, F1 and above.
_SUSPECT = {0xC0, 0xC1, 0xE0, *range(0xE3, 0xEA), *range(0xEF, 0x100)}
_UNSUSPECT = bytes(byte for byte in range(256) if byte not in _SUSPECT and byte != 0x0A)
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


class FastExaminer:
    """Judges lines as `examine.judge` does."""

    def __init__(self, rules: Rules, stem: str) -> None:
        self._rules = rules
        self._stem = stem
        self._decode = msgspec.json.Decoder(_Row).decode
        self._plain_only = rules.columns != CHATML or rules.wants_text

    def judged(self, data: bytes, lines: Sequence[bytes]) -> list[Judged]:
        """One judgement per line. `data` is the lines joined by newlines; best when a core's cache holds it."""
        residues = data.translate(None, _UNSUSPECT).split(b"\n")
        plain_only = self._plain_only or not _whole_sequences(data)
        found = []
        for line, residue in zip(lines, residues, strict=True):
            suspect = residue or (b"\\" in line and b"\\u" in line)  # one byte is found much faster than two
            quick = None if suspect or plain_only else self._quick(line)
            found.append(quick or judge(line, self._stem, self._rules, bool(suspect)))
        return found

    def _quick(self, line: bytes) -> Judged | None:
        """The judgement of a sound row without suspect bytes or \\u escapes; None when only the plain rule can tell."""
        if len(line) > self._rules.max_row_bytes:
            return None
        try:
            row = self._decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        shape = _shape(tuple([message.role for message in row.messages]))
        contents = [_content(bytes(message.content)) for message in row.messages]
        if shape is None or None in contents:
            return None
        chars = 0
        if shape.system:
            chars = _characters(contents.pop(0) or b"")
        spoken = shape.template % tuple(contents)
        chars += _characters(spoken) - shape.added
        source = row.source or self._stem
        rules = self._rules
        excluded = source in rules.exclude or (rules.include is not None and source not in rules.include)
        if excluded or (rules.max_chars is not None and chars > rules.max_chars):
            return None
        return Judged("", source, xxhash.xxh3_128_digest(spoken), chars, shape.multi)


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


def _content(raw: bytes) -> bytes | None:
    """The bytes of a JSON string that msgspec has checked and that has no \\u escape; None when it is none or blank.

    Example: b'"a\\\\nb"' -> b"a\\nb"; b'" "' -> None; b"5" -> None
    """
    if raw[:1] != b'"':
        return None
    content = raw[1:-1]
    if b"\\" in content:
        content = _read_text(raw).encode()
    if not content or (content[0] not in _VISIBLE and content.decode().isspace()):
        return None
    return content


def _characters(text: bytes) -> int:
    """The characters of UTF-8 text: its bytes without those that continue a character, 80 to BF."""
    return len(text) - int(np.count_nonzero(np.frombuffer(text, np.int8) < -64))


def _whole_sequences(data: bytes) -> bool:
    """Whether UTF-8 sequences have the bytes that their first bytes announce, and no surrogates, suspect bytes aside.

    Byte i continues a character just when a lead of 2, 3 or 4 bytes lies at i-1, one of 3 or 4 at i-2, or 4 at i-3.
    """
    size = len(data)
    byte = np.frombuffer(data, np.uint8)
    continues = byte.view(np.int8) < -64
    announced = np.zeros(size + 3, bool)
    announced[1 : size + 1] = byte >= 0xC0
    announced[2 : size + 2] |= byte >= 0xE0
    announced[3:] |= byte >= 0xF0
    if announced[size:].any() or not np.array_equal(announced[:size], continues):
        return False
    return not ((byte[:-1] == 0xED) & (byte[1:] >= 0xA0)).any()  # ED A0 to ED BF: halves of surrogate pairs
