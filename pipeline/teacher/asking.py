"""Which requests a pass sends: those of its units that the cache lacks, each once, and which units are answered since.

The requests are drawn in a thread while answers arrive in another, so what both touch is behind one lock. Drawing
waits while many answered units are not built yet: a source whose answers are all there is never held in memory whole.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from pipeline.teacher.answers import AnswerCache, Asked
from pipeline.teacher.compose import Requests
from pipeline.teacher.reading import Piece, Row
from pipeline.teacher.sample import unit_rows

MOST_READY = 8
WAIT_SECONDS = 0.02


@dataclass
class Question:
    """One row and its request's names in the cache, both empty for a row that asks nothing.

    `counted`: what came back is in the worker's figures already.
    """

    row: Row
    key: str = ""
    failure_key: str = ""
    counted: bool = False

    def asked(self, setup: str) -> Asked:
        """What the cache says of it beside the answer."""
        row = self.row
        return Asked(setup, row.id, row.source, row.origin, row.turns[-2].content, row.answer)


@dataclass
class Unit:
    """A unit's questions, one a row; `open` counts requests that are not answered, `whole` says all are drawn."""

    name: str
    questions: list[Question] = field(default_factory=list)
    open: int = 0
    answered: int = 0
    whole: bool = False


def question_of(row: Row, requests: Requests) -> tuple[Question, bytes]:
    """A row's question and its request's body; b"" for a broken row."""
    if row.reason:
        return Question(row), b""
    key, body = requests.request(row)
    return Question(row, key, requests.failure_key(key)), body


class Asking:
    """Iterate to get (question, request body); call `answered` for each outcome; `ready` gives units to build."""

    def __init__(
        self,
        pieces: list[Piece],
        plan: dict[str, Any],
        units: list[dict[str, Any]],
        cache: AnswerCache,
        requests: Requests,
    ) -> None:
        self.requests = requests
        self.answered_rows = 0  # of units that are not built yet
        self._cache = cache
        self._waiting: dict[str, list[Unit]] = {}  # request in flight -> units that need it
        self._ready: queue.SimpleQueue[Unit] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._drawn: Iterator[tuple[Question, bytes] | None] = self._draw(unit_rows(pieces, plan, units))
        self._closed = False

    def first(self, build_ready: Callable[[], None]) -> Question | None:
        """Draw up to the first request that the cache lacks, without losing it; None when it lacks none.

        `build_ready` is called after each unit that is passed on the way.
        """
        for found in self._drawn:
            if found is not None:
                self._drawn = chain([found], self._drawn)
                return found[0]
            build_ready()
        return None

    def __iter__(self) -> Iterator[tuple[Question, bytes]]:
        for found in self._drawn:
            if found is not None:
                yield found
            while self._ready.qsize() > MOST_READY and not self._closed:
                time.sleep(WAIT_SECONDS)

    def close(self) -> None:
        """Let a thread that waits in the iterator go on: nobody builds any more."""
        self._closed = True

    def answered(self, question: Question) -> None:
        """Note that an outcome is in the cache."""
        with self._lock:
            for unit in self._waiting.pop(question.key, ()):
                unit.open -= 1
                unit.answered += 1
                self.answered_rows += 1
                self._release(unit)

    @property
    def has_ready(self) -> bool:
        """Whether `ready` would give a unit now."""
        return not self._ready.empty()

    def ready(self) -> Iterator[Unit]:
        """Units whose every request has an outcome, each once."""
        while not self._ready.empty():
            unit = self._ready.get()
            with self._lock:
                self.answered_rows -= unit.answered
            yield unit

    def _draw(self, units: Iterator[tuple[str, list[Row]]]) -> Iterator[tuple[Question, bytes] | None]:
        """Every request that is to be sent, and None at the end of each unit."""
        for name, rows in units:
            unit = Unit(name)
            for row in rows:
                question, body = question_of(row, self.requests)
                unit.questions.append(question)
                if body and self._must_be_asked(question, unit):
                    yield question, body
            with self._lock:
                unit.whole = True
                self._release(unit)
            yield None

    def _must_be_asked(self, question: Question, unit: Unit) -> bool:
        """False when the answer is there, or when somebody else's request for the same is in flight."""
        with self._lock:
            if question.key in self._waiting:
                self._waiting[question.key].append(unit)
                unit.open += 1
                return False
            if question.key in self._cache or question.failure_key in self._cache:
                return False
            self._waiting[question.key] = [unit]
            unit.open += 1
            return True

    def _release(self, unit: Unit) -> None:
        if unit.whole and unit.open == 0:
            self._ready.put(unit)
