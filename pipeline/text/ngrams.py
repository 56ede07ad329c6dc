"""n-grams of many texts at once, as 64-bit hashes: what rows have in common however they are spaced and punctuated.

A unit is one Hangul syllable, ideograph or kana, or a whole run of other letters and digits; case, spaces, punctuation
and symbols do not count, and a text is read after NFKC. So an n-gram of English is one of words, as GPT-3 (Brown et
al. 2020, appendix C: n = 8 to 13), EleutherAI's harness (13) and Tulu 3 (8) cut it, and an n-gram of Korean is one of
syllables, as GPT-4 cuts text (OpenAI 2023, appendix C: letters and digits alone): an eojeol is no word to count by.
Particles stick to it and writers space it as they like (할 수 있다, 할수있다), so that one space or particle would
change every n-gram around it. Thirteen syllables are four to five eojeol, about six words of English.
"""

import itertools
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]

PIECE_CHARS = 1 << 16  # a longer text counts as several: no n-gram crosses a piece's end
_DROPPED, _ALONE, _IN_RUN = 0, 1, 2
_CODES = 0x323B0  # no ideograph lies above
_BASE = 0x9E3779B97F4A7C15 | 1
_INVERSE = pow(_BASE, -1, 2**64)
_SHIFT = np.uint64(32)
_FINISH = np.uint64(0xD6E8FEB86659FD93)
_ALONE_RANGES = (
    (0x1100, 0x11FF), (0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3040, 0x30FF), (0x3130, 0x318F), (0x31F0, 0x31FF),
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA960, 0xA97F), (0xAC00, 0xD7FF), (0xF900, 0xFAFF), (0x20000, 0x323AF),
)  # fmt: skip  # Hangul, Han and kana


class Grams(NamedTuple):
    """The hashes of all texts in order; those of text i are values[starts[i]:starts[i + 1]], one per position.

    `wholes` has one hash a text, of all units of its first piece: equal wherever the texts are.
    """

    values: Hashes
    starts: Positions
    wholes: Hashes


def ngram_hashes(texts: Sequence[str], n: int) -> Grams:
    """Every n-gram of `n` units of every text; a text of fewer units gives one hash of the whole, of none no hash.

    Equal n-grams have equal hashes in any text; others differ but for one chance in 2^64.
    Example: n = 2, "할 수 있다", "Hi!", "..." -> the hashes of 할수, 수있, 있다; of hi; none: starts [0, 3, 4, 4]
    """
    parts = [(number, piece) for number, text in enumerate(texts) for piece in pieces(text)]
    values: list[Hashes] = []
    counts, wholes = np.zeros(len(texts), np.int64), np.zeros(len(texts), np.uint64)
    for batch in _batches(parts):
        found = _hashed([piece for _, piece in batch], n)
        values.append(found.values)
        numbers = [number for number, _ in batch]
        np.add.at(counts, numbers, np.diff(found.starts))
        wholes[numbers[::-1]] = found.wholes[::-1]  # of a long text the first piece stays
    starts = np.concatenate([[0], np.cumsum(counts)])
    return Grams(np.concatenate(values) if values else np.zeros(0, np.uint64), starts, wholes)


def units(text: str) -> list[tuple[int, int]]:
    """Where each unit of a text begins and ends, by the plain rule; the text is read as `normalized` gives it.

    Example: "AI가 2배" -> [(0, 2), (2, 3), (4, 5), (5, 6)]: ai, 가, 2, 배
    """
    found: list[tuple[int, int]] = []
    run = False
    for place, character in enumerate(text):
        kind = _kind(ord(character))
        if kind == _IN_RUN and run:
            found[-1] = (found[-1][0], place + 1)
        elif kind != _DROPPED:
            found.append((place, place + 1))
        run = kind == _IN_RUN
    return found


def pieces(text: str) -> list[str]:
    """A text in normal form, cut every 65,536 characters. Example: "abc" -> ["abc"]; "" -> [""]"""
    text = normalized(text)
    return [text[start : start + PIECE_CHARS] for start in range(0, len(text) or 1, PIECE_CHARS)]


def normalized(text: str) -> str:
    """NFKC. Example: "ＡＩ①" -> "AI1" """
    return text if unicodedata.is_normalized("NFKC", text) else unicodedata.normalize("NFKC", text)


def _batches(parts: list[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """Pieces together up to one piece's most characters, so that every array stays in the processor's cache."""
    batch: list[tuple[int, str]] = []
    chars = 0
    for part in parts:
        if batch and chars + len(part[1]) > PIECE_CHARS:
            yield batch
            batch, chars = [], 0
        batch.append(part)
        chars += len(part[1])
    if batch:
        yield batch


def _hashed(texts: list[str], n: int) -> Grams:
    """`ngram_hashes` of texts that fit one batch.

    A span's hash is sum(value * base^place) mod 2^64, moved to place 0: one running sum gives it for every span. An odd
    base has an inverse mod 2^64.
    """
    text_begins = np.cumsum([0] + [len(text) + 1 for text in texts])
    values, places = _unit_values("\0".join(texts))
    *_, power, inverse = _tables()
    sums = _running_sums(values * power[: len(values)])
    windows = _finished((sums[n:] - sums[:-n]) * inverse[: max(len(sums) - n, 0)])
    edges = np.searchsorted(places, text_begins)
    wholes = _finished((sums[edges[1:]] - sums[edges[:-1]]) * inverse[edges[:-1]])
    found = [
        windows[begin : end - n + 1] if end - begin >= n else wholes[number : number + (end > begin)]
        for number, (begin, end) in enumerate(itertools.pairwise(edges.tolist()))
    ]
    return Grams(np.concatenate(found), np.cumsum([0, *map(len, found)]), wholes)


def _unit_values(text: str) -> tuple[Hashes, Positions]:
    """The value of every unit of a text and where it begins. A character alone has its own, a run that of its span."""
    kinds, values, power, inverse = _tables()
    codes = np.minimum(np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32), _CODES)
    kind = kinds[codes]
    begins = kind != _DROPPED
    begins[1:] &= (kind[1:] == _ALONE) | (kind[:-1] != _IN_RUN)
    first = np.flatnonzero(begins)
    found = values[codes[first]]
    runs = np.flatnonzero(kind[first] == _IN_RUN)
    letters = np.flatnonzero(kind == _IN_RUN)
    if len(runs):
        sums = _running_sums(values[codes[letters]] * power[: len(letters)])
        edges = np.append(np.flatnonzero(begins[letters]), len(letters))
        found[runs] = (sums[edges[1:]] - sums[edges[:-1]]) * inverse[edges[:-1]]
    return _finished(found), first


def _running_sums(values: Hashes) -> Hashes:
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values, out=sums[1:])
    return sums


def _finished(values: Hashes) -> Hashes:
    """Spread every bit over the word."""
    values ^= values >> _SHIFT
    values *= _FINISH
    values ^= values >> _SHIFT
    return values


@lru_cache(maxsize=1)
def _tables() -> tuple[npt.NDArray[np.uint8], Hashes, Hashes, Hashes]:
    """By code point its kind and its value (that of its lower case); powers of the base and of its inverse."""
    kinds = np.array([*map(_kind, range(_CODES)), _DROPPED], np.uint8)
    lower = [ord(low) if len(low := chr(code).lower()) == 1 else code for code in range(_CODES)] + [_CODES]
    values = _finished(_finished((np.array(lower, np.uint64) + np.uint64(1)) * np.uint64(_BASE)))
    most = 2 * PIECE_CHARS + 2  # texts of a batch and the marks between them
    power = np.cumprod(np.full(most, _BASE, np.uint64), dtype=np.uint64) * np.uint64(_INVERSE)
    inverse = np.cumprod(np.full(most, _INVERSE, np.uint64), dtype=np.uint64) * np.uint64(_BASE)
    return kinds, values, power, inverse


def _kind(code: int) -> int:
    """What a code point is: a unit alone, part of a run (letters, digits and marks of other scripts), or nothing."""
    if any(low <= code <= high for low, high in _ALONE_RANGES):
        return _ALONE
    character = chr(code)
    return _IN_RUN if character.isalnum() or unicodedata.category(character)[0] == "M" else _DROPPED
