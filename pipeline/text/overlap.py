"""Rows that share n-grams with sets which training must not see: the index of those sets, and the rule.

A prompt of such a set is met when a row shares the declared part of the prompt's distinct n-grams, wherever they stand
in the row's turns (the system turn aside). N-grams that stand in more than 10 prompts are a set's own phrases ("다음
글을 읽고 물음에 답하세요"), no prompt's content, and do not count, as GPT-3 left out what is that common. The index is
files that every worker process maps: 12 bytes an n-gram and place, and a table of 16 MB at most that answers for
nearly every other n-gram with one look.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

from pipeline.text.chatml import turns_of
from pipeline.text.examine import CHATML, messages_of, prompt_hashes
from pipeline.text.ngrams import Grams, Hashes, Positions, ngram_hashes, pieces, units
from pipeline.text.settings import Columns, OverlapNgrams

COMMON_PROMPTS = 10  # an n-gram of more prompts says nothing about any of them
_SHOWN_CHARS = 600
_TABLE_BITS = (13, 24)  # the table's least and most bytes, as powers of two
_BIT = np.left_shift(1, np.arange(8)).astype(np.uint8)


class Prompt(NamedTuple):
    """A prompt that training must not see: the set's name, the row's number in it from 1, its origin, its turns.

    `exact` is its hash (`examine.last_prompt_hash`).
    """

    set: str
    row: int
    origin: str
    texts: list[str]
    exact: int = 0

    @property
    def place(self) -> str:
        """Where it stands, for people. Example: "row 17 of input:eval (eval.jsonl:17)" """
        return f"row {self.row} of {self.set}" + (f" ({self.origin})" if self.origin else "")


class Match(NamedTuple):
    """What a row shares with the prompt it is nearest to: `shared` of `of` distinct n-grams, the first of them."""

    prompt: Prompt
    shared: int
    of: int
    ngram: str

    def __str__(self) -> str:
        return f"shares {self.shared} of {self.of} n-grams of {self.prompt.place}, first {self.ngram!r:.200}"


@dataclass(frozen=True)
class OverlapIndex:
    """The n-grams of all prompts: sorted hashes, and for hash i the prompts prompts[starts[i]:starts[i + 1]].

    `of` is each prompt's number of distinct n-grams that count, `needed` how many of them are too many; the bits of
    `table` say of the first bits of a hash whether any hash here has them. `exact` are the prompts' own hashes, `asked`
    those of what is asked last, by units.
    """

    rule: OverlapNgrams
    hashes: Hashes
    starts: Positions
    prompts: npt.NDArray[np.uint32]
    of: npt.NDArray[np.uint32]
    needed: npt.NDArray[np.uint32]
    table: npt.NDArray[np.uint8]
    asked: Hashes
    exact: frozenset[int]
    folder: Path

    def size(self) -> dict[str, int]:
        """How many prompts and distinct n-grams it holds; `bare` prompts have no n-gram that counts."""
        return {"prompts": len(self.of), "ngrams": len(self.hashes), "bare": int(np.count_nonzero(self.of == 0))}

    def meets(self, grams: Grams, rows: Sequence[int]) -> list[tuple[int, int]]:
        """(row, prompt it is nearest to) for every row that meets one; `rows[i]` is how many texts row i has.

        Nearest: the largest shared part, of equal ones the prompt that comes first.
        """
        if not len(self.hashes):
            return []
        found, places = self._hits(grams.values)
        row_starts = grams.starts[np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])]
        edges = np.searchsorted(found, row_starts)
        least = int(self.needed.min())
        full = np.flatnonzero(np.diff(edges) >= least)
        judged = ((int(row), self._nearest(places[edges[row] : edges[row + 1]])) for row in full)
        return [(row, nearest[0]) for row, nearest in judged if nearest is not None]

    def holds(self, grams: Grams, rows: Sequence[Sequence[tuple[str, str]]]) -> list[int]:
        """The rows that hold a prompt, letter by letter but for NFKC and spacing; `grams` are those of all their turns.

        Only a row with a turn that has the units of what some prompt asks last is looked at.
        """
        row_of = np.repeat(np.arange(len(rows)), [len(turns) for turns in rows])
        maybe = np.unique(row_of[np.isin(grams.wholes, self.asked)]).tolist()
        return [row for row in maybe if not self.exact.isdisjoint(prompt_hashes(rows[row]))]

    def match(self, texts: Sequence[str]) -> Match | None:
        """What one row's texts share with the prompt they are nearest to, in words; None when they meet none."""
        if not len(self.hashes):
            return None
        grams = ngram_hashes(texts, self.rule.n)
        found, places = self._hits(grams.values)
        nearest = self._nearest(places)
        if nearest is None:
            return None
        prompt, shared = nearest
        for hit, place in zip(found.tolist(), places.tolist(), strict=True):
            if prompt in self.prompts[self.starts[place] : self.starts[place + 1]]:
                text = int(np.searchsorted(grams.starts, hit, "right")) - 1
                ngram = _spelled(texts[text], hit - int(grams.starts[text]), self.rule.n)
                return Match(self.prompt(prompt), shared, int(self.of[prompt]), ngram)
        raise AssertionError(f"prompt {prompt} was met by no n-gram")

    def prompt(self, number: int) -> Prompt:
        """A prompt as it can be shown: texts longer than 600 characters are cut."""
        with (self.folder / "prompts.jsonl").open("rb") as file:
            for position, line in enumerate(file):
                if position == number:
                    return Prompt(*orjson.loads(line))
        raise IndexError(number)

    def _hits(self, values: Hashes) -> tuple[Positions, Positions]:
        """Positions in `values` that hold a known hash, and where it stands among `hashes`."""
        bits = (values >> _shift(len(self.table))).astype(np.uint32)
        maybe = np.flatnonzero(self.table[bits >> np.uint32(3)] & _BIT[bits & np.uint32(7)])
        places = np.searchsorted(self.hashes, values[maybe])
        known = self.hashes[np.minimum(places, len(self.hashes) - 1)] == values[maybe]
        return maybe[known], places[known]

    def _nearest(self, places: Positions) -> tuple[int, int] | None:
        """The prompt that a row with these hashes is nearest to, of those it meets, and how many it shares."""
        distinct = np.unique(places)
        spans = [self.prompts[self.starts[place] : self.starts[place + 1]] for place in distinct.tolist()]
        prompts, shared = np.unique(np.concatenate(spans) if spans else self.prompts[:0], return_counts=True)
        met = shared >= self.needed[prompts]
        if not met.any():
            return None
        prompts, shared = prompts[met], shared[met]
        nearest = int(np.argmax(shared / self.of[prompts]))
        return int(prompts[nearest]), int(shared[nearest])


def build_index(folder: Path, prompts: Iterable[Prompt], rule: OverlapNgrams) -> "OverlapIndex":
    """Write the index of all prompts into a folder that does not exist yet, and open it.

    Memory while building: about 48 bytes for each n-gram of the prompts.
    """
    folder.mkdir(parents=True)
    values, owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint32)]
    asked: list[int] = []
    exact: list[int] = []
    with (folder / "prompts.jsonl").open("wb") as shown:
        for number, prompt in enumerate(prompts):
            grams = ngram_hashes(prompt.texts, rule.n)
            values.append(np.unique(grams.values))
            owners.append(np.full(len(values[-1]), number, np.uint32))
            asked.extend(grams.wholes[-1:].tolist())
            exact.append(prompt.exact)
            cut = [text[:_SHOWN_CHARS] + ("…" if len(text) > _SHOWN_CHARS else "") for text in prompt.texts]
            shown.write(orjson.dumps((prompt.set, prompt.row, prompt.origin, cut)) + b"\n")
    every, owner = np.concatenate(values), np.concatenate(owners)
    order = np.argsort(every, kind="stable")
    every, owner = every[order], owner[order]
    hashes, spread = np.unique(every, return_counts=True)
    counts = spread <= COMMON_PROMPTS
    arrays: dict[str, npt.NDArray[Any]] = {"hashes": hashes[counts], "prompts": owner[np.repeat(counts, spread)]}
    arrays["starts"] = np.concatenate([[0], np.cumsum(spread[counts])]).astype(np.int64)
    arrays["of"] = np.bincount(arrays["prompts"], minlength=len(exact)).astype(np.uint32)
    arrays["needed"] = _needed(arrays["of"], rule)
    arrays["table"] = _table(arrays["hashes"])
    arrays["asked"], arrays["exact"] = np.unique(np.array(asked, np.uint64)), np.array(exact, np.uint64)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "rule.json").write_text(rule.model_dump_json())
    return open_index(folder)


@lru_cache(maxsize=1)
def open_index(folder: Path) -> OverlapIndex:
    """The index in a folder, its arrays mapped; a process opens it once."""
    rule = OverlapNgrams.model_validate_json((folder / "rule.json").read_bytes())
    names = ("hashes", "starts", "prompts", "of", "needed", "table", "asked")
    arrays: dict[str, Any] = {name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in names}
    exact = frozenset(np.load(folder / "exact.npy").tolist())
    return OverlapIndex(rule=rule, exact=exact, folder=folder, **arrays)


def _needed(of: npt.NDArray[np.uint32], rule: OverlapNgrams) -> npt.NDArray[np.uint32]:
    """How many n-grams of each prompt are too many; more than it has where it has none that counts.

    Example: share 0.5 of 7 -> 4; count 3 of 2 -> 2
    """
    parts = np.ceil(of * (rule.share or 0.0) - 1e-9) if rule.count is None else np.minimum(of, rule.count)
    needed: npt.NDArray[np.uint32] = np.maximum(parts, 1).astype(np.uint32)
    return needed


def _table(hashes: Hashes) -> npt.NDArray[np.uint8]:
    """Sixty-four bits a hash where that many are allowed: at most one foreign n-gram in 64 is looked for in vain."""
    least, most = _TABLE_BITS
    table = np.zeros(1 << min(max((8 * max(len(hashes), 1) - 1).bit_length(), least), most), np.uint8)
    bits = hashes >> _shift(len(table))
    np.bitwise_or.at(table, bits >> np.uint64(3), _BIT[bits & np.uint64(7)])
    return table


def _shift(table_bytes: int) -> np.uint64:
    """How far a hash is shifted to number one of the table's bits."""
    return np.uint64(64 - 3 - (table_bytes - 1).bit_length())


def _spelled(text: str, number: int, n: int) -> str:
    """The n-gram `number` of a text as it is written there."""
    for piece in pieces(text):
        spans = units(piece)
        count = max(len(spans) - n + 1, 1) if spans else 0
        if number < count:
            return piece[spans[number][0] : spans[min(number + n, len(spans)) - 1][1]]
        number -= count
    raise IndexError(number)


def texts_of(line: bytes, columns: Columns) -> list[str]:
    """What the turns of a sound row say, the system turn aside."""
    return [content for _, content in spoken(line, columns)]


def spoken(line: bytes, columns: Columns) -> list[tuple[str, str]]:
    """The turns (role, content) of a sound row, the system turn aside."""
    if columns == CHATML:
        try:
            return [(turn.role, turn.content) for turn in _decode(line).messages if turn.role != "system"]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass  # what the typed decoder does not read the plain one does
    turns = turns_of(messages_of(orjson.loads(line), columns))
    return [(turn.role, turn.content) for turn in turns if turn.role != "system"]


class _Message(msgspec.Struct, gc=False):
    role: str
    content: str


class _Row(msgspec.Struct, gc=False):
    messages: list[_Message]


_decode: Callable[[bytes], _Row] = msgspec.json.Decoder(_Row).decode
