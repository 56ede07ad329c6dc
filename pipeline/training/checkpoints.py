"""Checkpoints of a training in the store: `checkpoints/<step>-<unique>/`, complete once `done.json` stands in it.

A checkpoint is uploaded first, then the lease is checked, then the marker is created. Older ones go only after a newer
one is complete. A reader takes the newest complete one whose files all have their sha256.
"""

import logging
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from pipeline.store.commit import StageDirectory, dumped
from pipeline.store.disk import file_sha256
from pipeline.store.inputs import SHA256, Damaged, MissingInput, SourceFile

LOG = logging.getLogger(__name__)
MARKER = "done.json"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: the optimizer step after which it was made, and its folder's name."""

    step: int
    name: str


class StoredCheckpoints:
    """The checkpoints of one stage. `check` raises when this process may not write any more."""

    def __init__(self, directory: StageDirectory, check: Callable[[], None], keep: int) -> None:
        self._directory = directory
        self._check = check
        self._keep = keep
        self._damaged: set[str] = set()

    def complete(self) -> list[Checkpoint]:
        """Every complete checkpoint that is not known to be damaged, oldest step first."""
        found = [name for name, files in self._folders().items() if MARKER in files and name not in self._damaged]
        return [Checkpoint(int(name.split("-")[0]), name) for name in sorted(found)]

    def save(self, step: int, folder: Path) -> Checkpoint:
        """Copy a local checkpoint into the store, complete it, then delete those beyond the limit."""
        name = f"{step:08d}-{uuid.uuid4().hex}"
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        record: dict[str, Any] = {"step": step, "files": {}}
        for path in files:
            relative = path.relative_to(folder).as_posix()
            self._directory.store.upload(self._key(name, relative), path)
            record["files"][relative] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        self._check()
        self._directory.store.create(self._key(name, MARKER), dumped(record))
        LOG.info("checkpoint of step %d is complete: %s", step, name)
        self._prune()
        return Checkpoint(step, name)

    def newest(self, folder: Path) -> tuple[Checkpoint, Path] | None:
        """The newest sound checkpoint with its local copy, `folder/checkpoint-<step>`; damaged ones are passed over.

        None when no sound one is left: the training begins anew. Raises Trouble when the store itself fails.
        """
        for checkpoint in reversed(self.complete()):
            try:
                return checkpoint, self.fetch(checkpoint, folder / f"checkpoint-{checkpoint.step}")
            except Damaged as error:
                LOG.warning("checkpoint of step %d is passed over: %s", checkpoint.step, error)
                self._damaged.add(checkpoint.name)
                shutil.rmtree(folder, ignore_errors=True)
        return None

    def fetch(self, checkpoint: Checkpoint, folder: Path) -> Path:
        """Copy a complete checkpoint to a local folder; Damaged when it is not what its marker says."""
        store = self._directory.store
        try:
            record = orjson.loads(store.read(self._key(checkpoint.name, MARKER)))
            for name, expected in record["files"].items():
                url = f"{store.url}/{self._key(checkpoint.name, name)}"
                SourceFile(name, url, expected["bytes"], SHA256 + expected["sha256"]).download(folder / name)
        except (FileNotFoundError, MissingInput, orjson.JSONDecodeError) as error:
            raise Damaged(f"{checkpoint.name} lacks a file, or its marker is cut: {error}") from error
        return folder

    def delete_all(self) -> None:
        """Free the space of a training that has been committed."""
        for name, files in self._folders().items():
            self._delete(name, files)

    def _prune(self) -> None:
        """Delete complete checkpoints beyond the limit, damaged ones, and remains of writers killed while saving."""
        self._check()  # what looks like remains may be a successor's upload
        kept = {one.name for one in self.complete()[-self._keep :]}
        for name, files in self._folders().items():
            if name not in kept:
                self._delete(name, files)

    def _delete(self, name: str, files: list[str]) -> None:
        # The marker goes first, so that what is half deleted is not taken for complete.
        for file in sorted(files, key=lambda file: file != MARKER):
            self._directory.store.delete(self._key(name, file))

    def _folders(self) -> dict[str, list[str]]:
        prefix = self._directory.key("checkpoints") + "/"
        folders: dict[str, list[str]] = {}
        for entry in self._directory.store.list(self._directory.key("checkpoints")):
            name, _, file = entry.key.removeprefix(prefix).partition("/")
            folders.setdefault(name, []).append(file)
        return folders

    def _key(self, name: str, file: str) -> str:
        return self._directory.key("checkpoints", name, file)
