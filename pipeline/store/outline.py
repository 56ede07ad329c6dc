"""A checkpoint's outline: its small files as they are, its large ones by name and size, without bringing weights here.

What can be seen to be wrong from an outline is found before the first stage of a chain starts. On a local disk the
large files are links; from elsewhere they are empty files of the right size.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.recipe.references import StageReference, is_hub_id
from pipeline.store.hub import resolve_model
from pipeline.store.stage import Stage

READ = (".json", ".jinja")
READ_BYTES = 1 << 26


class Outlined(Stage):
    """A stage before it runs: whatever asks it for a checkpoint gets the outline."""

    def model_path(self, reference: Any, only: Sequence[str] = ()) -> Path:
        """A folder of this process's own with the outline; same errors as the real one where it can know them."""
        folder = self.scratch() / f"outline-{len(self.shown)}"
        for name, size, local, read in self._files(reference):
            if only and name not in only:
                continue
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if local is not None:
                target.symlink_to(local)
            elif name.endswith(READ) and size <= READ_BYTES:
                target.write_bytes(read())
            else:
                with target.open("wb") as file:
                    file.truncate(size)
        self.shown[str(folder)] = self.place(reference)
        return folder

    def _files(self, reference: Any) -> list[tuple[str, int, Path | None, Callable[[], bytes]]]:
        """Name, bytes, path on this disk if it lies here, and how to read it, of each file."""
        if isinstance(reference, StageReference) or is_hub_id(reference):
            parts = (
                self.parts(reference)
                if isinstance(reference, StageReference)
                else resolve_model(self.store, reference.split("@")[0], self.lock.hub_models[reference]).parts
            )
            return [
                (part.name, part.bytes, self._local(part.key), partial(self.store.read, part.key)) for part in parts
            ]
        return [
            (file.name, file.bytes, _here(file.url), partial(file.read_range, 0, file.bytes))
            for file in self.source(reference).files
        ]

    def _local(self, key: str) -> Path | None:
        return Path(self.store.path(key)) if self.store.is_local else None


def _here(url: str) -> Path | None:
    return Path(url.removeprefix("file://")) if url.startswith("file://") else None
