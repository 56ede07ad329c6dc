"""The answer cache: `answers/<teacher>/<number>.jsonl.zst`, immutable segments of raw answers by request.

A line says what was asked, in short, and what was answered: `{"key", "setup", "row", ..., "answer" or "failure"}`.
The lowest segment that holds a request wins. Segments are numbered without a gap by create-only writes, so nobody can
slip one below another that was already read. No request is paid for twice, save those in flight at a kill.
"""

import re
import threading
import uuid
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson
import zstandard

from pipeline.engine.protocol import Answer, Failure
from pipeline.store.objects import Store
from pipeline.teacher.index import SegmentIndex

READERS = 16
_NAMES = re.compile(rb'\{"key":"([^"]*)"(?:,"setup":"([^"]*)")?')  # how `add` begins a line: no answer is parsed for it


def teacher_folder(name: str, identity: str) -> str:
    """The folder of one teacher at one revision. Example: "answers/LGAI-EXAONE--EXAONE-4.0-1.2B-0f3c..." """
    slug = re.sub(r"[^A-Za-z0-9._-]+", "--", name).strip("-.")[:80]
    return f"answers/{slug}-{sha256(f'{name} {identity}'.encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class Asked:
    """What a kept answer says of its request, for people and counts: nothing of it decides which answer is found.

    `setup` names what all requests of one teacher and prompt have in common; `row` is the row's id, `known` its answer.
    """

    setup: str
    row: str
    source: str = ""
    origin: str = ""
    question: str = ""
    known: str = ""


class AnswerCache:
    """Answers by key: `index` says which segment holds a key, answers themselves stay in the store.

    Safe for one thread that adds and another that flushes or fetches; nothing waits for the store with the lock held.
    """

    def __init__(self, store: Store, folder: str) -> None:
        self.store = store
        self.folder = folder
        self._pending: dict[str, bytes] = {}  # key -> its line, not yet in any segment
        self._writing: dict[str, bytes] = {}  # the same, while a segment of them is being written
        self._index = SegmentIndex()
        self._setups: Counter[str] = Counter()  # setup -> outcomes in segments that were asked so
        self._loaded: set[str] = set()
        self._number = 0
        self._writer = uuid.uuid4().hex[:8]
        self._lock = threading.Lock()
        self._one_flush = threading.Lock()

    def __contains__(self, key: str) -> bool:
        with self._lock:
            return key in self._pending or key in self._writing or self._index.get(key) is not None

    @property
    def pending(self) -> int:
        """How many outcomes wait for the next flush."""
        return len(self._pending)

    def asked_so(self, setup: str) -> int:
        """How many outcomes that other processes stored can be of this setup, as far as segments are known."""
        return self._setups[setup] + self._setups[""]

    def refresh(self) -> None:
        """Read the segments that have appeared since the last look."""
        names = [entry.key.rsplit("/", 1)[-1] for entry in self.store.list(self.folder)]
        new = sorted(name for name in names if name not in self._loaded)
        with ThreadPoolExecutor(READERS) as pool:
            for name, lines in zip(new, pool.map(self._lines, new), strict=True):
                self._note_lines(name, lines)

    def add(self, key: str, asked: Asked, outcome: Answer | Failure) -> None:
        """Keep an outcome until the next flush. An answer already kept stays."""
        if key in self:
            return
        kind = "answer" if isinstance(outcome, Answer) else "failure"
        line = orjson.dumps({"key": key, **vars(asked), kind: outcome})
        with self._lock:
            self._pending[key] = line

    def flush(self) -> None:
        """Write what is pending as the next segment; Trouble leaves it pending."""
        with self._one_flush:
            with self._lock:
                self._writing, self._pending = {**self._writing, **self._pending}, {}
            if not self._writing:
                return
            data = zstandard.ZstdCompressor(level=3).compress(b"\n".join(self._writing.values()) + b"\n")
            if not self.store.exclusive:
                self.refresh()
            while not self.store.create(self._key(name := self._next_name()), data):
                self._note_lines(name, self._lines(name))
            self._note_lines(name, self._writing.values())
            with self._lock:
                self._writing = {}

    def fetch(self, keys: Iterable[str]) -> dict[str, Answer | Failure]:
        """The outcomes of some keys, each from the lowest segment that holds it; unknown keys are left out."""
        self.flush()
        wanted: dict[str, set[str]] = {}
        with self._lock:
            for key in keys:
                if (name := self._index.get(key)) is not None:
                    wanted.setdefault(name, set()).add(key)
        found: dict[str, Answer | Failure] = {}
        with ThreadPoolExecutor(READERS) as pool:
            names = sorted(wanted)
            for name, lines in zip(names, pool.map(self._lines, names), strict=True):
                for record in map(orjson.loads, lines):
                    if record["key"] in wanted[name]:
                        found.setdefault(record["key"], outcome_of(record))
        return found

    def _note_lines(self, name: str, lines: Iterable[bytes]) -> None:
        matches = filter(None, map(_NAMES.match, lines))
        named = [(match[1].decode(), (match[2] or b"").decode()) for match in matches]
        with self._lock:
            self._loaded.add(name)
            self._number = max(self._number, int(name[:8]))
            new = self._index.note(name, [key for key, _ in named])
            for (_, setup), is_new in zip(named, new, strict=True):
                self._setups[setup] += is_new

    def _next_name(self) -> str:
        """Without create-only writes two writers may take one number: the name then carries the writer's own mark."""
        mark = "" if self.store.exclusive else f"-{self._writer}"
        return f"{self._number + 1:08d}{mark}.jsonl.zst"

    def _key(self, name: str) -> str:
        return f"{self.folder}/{name}"

    def _lines(self, name: str) -> list[bytes]:
        return segment_lines(self.store.read(self._key(name)))


def segment_lines(data: bytes) -> list[bytes]:
    """The lines of one segment, in the order in which their answers came."""
    return zstandard.ZstdDecompressor().decompress(data).splitlines()


def outcome_of(record: dict[str, Any]) -> Answer | Failure:
    """What a segment's line says came back."""
    return Answer(**record["answer"]) if "answer" in record else Failure(**record["failure"])
