"""A stage of a run as the process that works on it sees it: its settings, its folder, what it reads, how it reports."""

import logging
import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from pipeline.errors import UserError
from pipeline.recipe import models
from pipeline.recipe.profiles import Execution
from pipeline.recipe.references import InputReference, StageReference, is_hub_id
from pipeline.store import pins, runs
from pipeline.store.cache import staged
from pipeline.store.commit import Manifest, StageDirectory
from pipeline.store.inputs import Source, SourceFile, check_unchanged, stored_files
from pipeline.store.objects import Store
from pipeline.store.progress import MetricsWriter, Progress
from pipeline.store.shards import Part, lines_of, part_lines
from pipeline.store.standing import check_gate
from pipeline.store.status import require_done
from pipeline.store.stop import StopFlag


@dataclass(frozen=True)
class Rows:
    """Rows of an upstream stage (`parts`), or the files of an external source (`source`)."""

    store: Store
    name: str
    parts: tuple[Part, ...] = ()
    source: Source | None = None

    @property
    def total(self) -> int:
        """How many rows the manifest counts; external files are not counted before they are read."""
        return sum(part.rows for part in self.parts)

    def files(self) -> list[SourceFile]:
        """The files of an external source, or the parts as files in manifest order."""
        return list(self.source.files) if self.source is not None else stored_files(self.store, self.parts)

    def lines(self) -> Iterator[bytes]:
        """Every JSONL line in order, without its newline; parts are checked against their sha256."""
        for part in self.parts:
            yield from part_lines(self.store, part)
        for file in self.source.files if self.source else ():
            with file.open() as stream:
                yield from lines_of(stream, file.name)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number, line in enumerate(self.lines(), 1):
            try:
                yield orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise UserError(
                    f"{self.name}: row {number} is not JSON: {error}", "Read raw files through a prepare stage"
                ) from error


class Stage:
    """What a kind's `run(stage)` gets."""

    def __init__(
        self, store: Store, lock: runs.RunLock, name: str, index: int = 0, of: int = 1, stop: StopFlag | None = None
    ) -> None:
        self.store = store
        self.lock = lock
        self.name = name
        self.settings: Any = lock.settings(name)
        self.run_id = lock.run_id
        self.recipe_name = lock.recipe.name
        self.fingerprint = lock.stages[name].fingerprint
        self.execution: Execution = lock.stages[name].execution
        self.index, self.of = index, of
        self.stop = stop or StopFlag()
        self.directory: StageDirectory = lock.directory(store, name)
        self.worker = f"{index:03d}-{uuid.uuid4().hex[:8]}"
        self.progress = Progress(self.directory, self.worker, name)
        self.metrics = MetricsWriter(self.directory, self.worker)
        self.log = logging.getLogger(f"hanforge.{name}")
        self.shown: dict[str, str] = {}  # local folder of a checkpoint -> where the user knows it

    def upstream(self, reference: StageReference) -> tuple[Manifest, str]:
        """The manifest and output behind a reference; UserError when it is not done, GateRefused when it refuses."""
        manifest = require_done(self.store, self.lock, reference.stage)
        check_gate(self.lock, reference.stage, manifest)
        return manifest, models.output_name(self.lock.settings(reference.stage), reference)

    def parts(self, reference: StageReference) -> list[Part]:
        """The ordered parts of another stage's output."""
        manifest, output = self.upstream(reference)
        return manifest.outputs.get(output, [])

    def source(self, reference: InputReference | str) -> Source:
        """An external source as the run's lock pinned it."""
        return self.lock.source(reference)

    def rows(self, reference: Any) -> Rows:
        """The rows behind a reference, in their committed order."""
        if isinstance(reference, StageReference):
            return Rows(self.store, reference.stage, tuple(self.parts(reference)))
        return Rows(self.store, runs.reference_key(reference), source=self.source(reference))

    def pinned_rows(self, reference: Any) -> Rows:
        """The same, after a look at external files: UserError when one is not what the run was locked with."""
        rows = self.rows(reference)
        if rows.source is not None:
            check_unchanged(rows.source.files)
        return rows

    def model_path(self, reference: Any, only: Sequence[str] = ()) -> Path:
        """A local folder with the checkpoint or adapter behind a reference, checked against its checksums.

        `only`: with no more than these of its files, so that nobody fetches weights to look at a tokenizer.
        """
        files = [file for file in self.files(reference) if not only or file.name in only]
        if not isinstance(reference, StageReference) and not is_hub_id(reference):
            check_unchanged(files)
        folder = staged(files)
        self.shown[str(folder)] = self.place(reference)
        return folder

    def files(self, reference: Any) -> list[SourceFile]:
        """The files of the checkpoint or adapter behind a reference, where they lie."""
        if isinstance(reference, StageReference):
            return stored_files(self.store, self.parts(reference))
        return pins.outside_files(self.store, self.lock, reference)

    def is_there(self, reference: Any) -> bool:
        """Whether what a reference names exists now: everything from outside does, a stage's output once it is done."""
        if not isinstance(reference, StageReference):
            return True
        return self.lock.directory(self.store, reference.stage).manifest() is not None

    def place(self, reference: Any) -> str:
        """Where the user knows a reference: a stage, a Hub id or a URL. Example: {stage: merge1} -> stage 'merge1'"""
        if isinstance(reference, StageReference):
            return f"stage {reference.stage!r}"
        return str(reference) if is_hub_id(reference) else self.source(reference).url

    def in_words(self, text: str) -> str:
        """A message with the local folders of checkpoints named as the user knows them."""
        for folder, place in self.shown.items():
            text = text.replace(folder, place)
        return text

    def identity(self, reference: Any) -> str:
        """The fingerprint or digest behind a reference: what a model or a row set is, wherever it lies."""
        return pins.identity(self.lock, reference)

    @cached_property
    def _scratch(self) -> "tempfile.TemporaryDirectory[str]":
        return tempfile.TemporaryDirectory(prefix=f"hanforge-{self.name}-", dir=os.environ.get("HANFORGE_SCRATCH"))

    def scratch(self) -> Path:
        """A local folder that is removed when the process ends in an orderly way."""
        return Path(self._scratch.name)
