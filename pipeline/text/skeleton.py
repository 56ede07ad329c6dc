"""Lines recognised by all that is not content: rows of one data set differ in little else.

A skeleton is a line without its contents, learned from a line that was decoded in full and proved by decoding it with
other contents. A line that is a skeleton with contents put in, none of which can end its JSON string early, is then
known to be sound without decoding it: a few searches for the next quote.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

_MOST_TRIED = 8  # skeletons with one tail that are tried on a line
_MOST_LEARNED = 4096  # data without common skeletons is not searched for them for ever


class Skeleton(NamedTuple):
    """What stands before, between and behind the contents, and what such a line is apart from them.

    `continued`: how many bytes of the pieces are later bytes of a character, 80 to BF in UTF-8.
    """

    pieces: tuple[bytes, ...]
    row: Any
    continued: int


class Skeletons:
    """The skeletons learned so far.

    `describe` decodes a line: its contents in order, and what else it is; None for a line that is not sound.
    """

    def __init__(self, describe: Callable[[bytes], tuple[list[bytes], Any] | None]) -> None:
        self._describe = describe
        self._by_tail: dict[bytes, list[Skeleton]] = {}
        self._learned = 0

    def fit(self, line: bytes) -> tuple[Skeleton, list[bytes]] | None:
        """A line's skeleton and its contents as they are written, or None when no skeleton fits.

        The caller sees to it that control characters and wrong escapes are found out.
        """
        for skeleton in self._by_tail.get(_tail(line), ()):
            pieces = skeleton.pieces
            if not line.startswith(pieces[0]):
                continue
            at = len(pieces[0])
            contents = []
            for piece in pieces[1:]:
                end = line.find(b'"', at)
                if not line.startswith(piece, end):
                    break
                contents.append(line[at:end])
                at = end + len(piece)
            else:
                if at == len(line):
                    return skeleton, contents
        return None

    def learn(self, line: bytes, contents: Sequence[bytes]) -> None:
        """Learn from a line without escapes that was decoded to these contents."""
        known = self._by_tail.setdefault(_tail(line), []) if self._learned < _MOST_LEARNED else None
        if known is None or len(known) >= _MOST_TRIED:
            return
        self._learned += 1
        pieces, at = [], 0
        for content in contents:
            end = line.find(b'"%b"' % content, at) + 1
            if not end:
                return
            pieces.append(line[at:end])
            at = end + len(content)
        pieces.append(line[at:])
        other = [b"content-%d" % number for number in range(len(contents))]
        filled = b"".join(part for pair in zip(pieces, [*other, b""], strict=True) for part in pair)
        proof, whole = self._describe(filled), self._describe(line)
        if proof is not None and whole is not None and proof == (other, whole[1]):
            row = whole[1]
            continued = sum(0x80 <= byte < 0xC0 for piece in pieces for byte in piece)
            known.append(Skeleton(tuple(pieces), row, continued))


def _tail(line: bytes) -> bytes:
    """What stands behind the messages, where they are written last or only the source follows."""
    return line[line.rfind(b"]") :]
