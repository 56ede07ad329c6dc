"""A checkpoint's outline: its small files as they are, its large ones by name and size, without bringing weights here.

What can be seen to be wrong from an outline is found before the first stage of a chain starts. On a local disk the
large files are links; from elsewhere they are empty files of the right size.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.store.stage import Stage

READ = (".json", ".jinja")
READ_BYTES = 1 << 26


class Outlined(Stage):
    """A stage before it runs: whatever asks it for a checkpoint gets the outline."""

    def model_path(self, reference: Any, only: Sequence[str] = ()) -> Path:
        """A folder of this process's own with the outline; same errors as the real one where it can know them."""
        folder = self.scratch() / f"outline-{len(self.shown)}"
        for file in self.files(reference):
            if only and file.name not in only:
                continue
            target = folder / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            if file.local is not None:
                target.symlink_to(file.local)
            elif file.name.endswith(READ) and file.bytes <= READ_BYTES:
                target.write_bytes(file.read_range(0, file.bytes))
            else:
                with target.open("wb") as out:
                    out.truncate(file.bytes)
        self.shown[str(folder)] = self.place(reference)
        return folder
