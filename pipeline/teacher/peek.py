"""A live look at what a teacher answers while augment runs, from the segments of the answer cache alone.

Every look lists the segments and reads the new ones, so it costs what is new, in a local folder as on S3.
"""

from collections.abc import Iterator
from typing import Any

import orjson

from pipeline.engine.protocol import Answer
from pipeline.errors import UserError
from pipeline.store.objects import Entry
from pipeline.store.stage import Stage
from pipeline.teacher.answers import outcome_of, segment_lines, teacher_folder
from pipeline.teacher.compose import Requests
from pipeline.teacher.endpoint import identity
from pipeline.teacher.judging import Judges
from pipeline.teacher.reading import Row
from pipeline.text.chatml import Turn

MOST_BACK = 2000


class Peek:
    """`look` gives what was answered since the last look, the newest first; `stage` is only read."""

    def __init__(self, stage: Stage) -> None:
        if stage.settings.kind != "augment":
            raise UserError(
                f"stage {stage.name!r} is of kind {stage.settings.kind}: peek looks at a teacher's answers",
                f"Name an augment stage, or look at rows: hanforge show-sample {stage.run_id}:{stage.name}",
            )
        teacher = identity(stage)
        self.folder = teacher_folder(stage.settings.teacher.name(), teacher)
        self._store = stage.store
        self._judges = Judges(stage.lock, stage.name)
        self._setup = Requests(teacher, stage.settings).setup
        self._read: set[str] | None = None  # keys of segments; None before the first look
        self._seen: set[str] = set()

    def look(self, most: int, rejected: bool = False) -> tuple[list[dict[str, Any]], int]:
        """Up to `most` new samples, the newest first, as rows with their verdict; and how many new ones are not shown.

        `rejected`: only those that some stage of the recipe rejects. The first look reads no further back than it
        needs and no further than MOST_BACK answers, and counts nothing as not shown.
        """
        first, read = self._read is None, self._read or set()
        segments = [entry for entry in self._store.list(self.folder) if entry.key not in read]
        self._read = read | {entry.key for entry in segments}
        shown: list[dict[str, Any]] = []
        left = 0
        for number, record in enumerate(self._newest_first(segments)):
            if len(shown) < most and not (first and number >= MOST_BACK):
                sample = self._sample(record)
                if not rejected or "reason" in sample:
                    shown.append(sample)
            elif first:
                break
            else:
                left += 1
        return shown, left

    def _newest_first(self, segments: list[Entry]) -> Iterator[dict[str, Any]]:
        """The new answers to this run's prompt; an answer that two workers paid for is shown once."""
        for entry in sorted(segments, key=lambda entry: entry.key, reverse=True):
            for line in reversed(segment_lines(self._store.read(entry.key))):
                record = orjson.loads(line)
                if record.get("setup") == self._setup and record["key"] not in self._seen:
                    self._seen.add(record["key"])
                    yield record

    def _sample(self, record: dict[str, Any]) -> dict[str, Any]:
        outcome = outcome_of(record)
        turns = [Turn("user", record["question"]), Turn("assistant", record["known"])]
        row = Row(b"", record["row"], record["source"], record["origin"], {}, turns)
        found = self._judges.judge(row, outcome)
        sample: dict[str, Any] = {"id": row.id, "source": row.source, "origin": row.origin}
        sample["messages"] = [turn._asdict() for turn in (turns[0], Turn("assistant", found.content)) if turn.content]
        if found.reason:
            sample |= {"reason": found.reason, "detail": found.detail}
        sample["verdict"] = f"{found.by} rejects it" if found.reason else "passes"
        if isinstance(outcome, Answer):
            sample |= {"completion_tokens": outcome.completion_tokens, "finish_reason": outcome.finish_reason}
        return sample
