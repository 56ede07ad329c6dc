"""MODEL on the command line: `RUN:STAGE[/OUTPUT]`, `promoted[@RECIPE]`, a folder or URL, or a mirrored Hub id."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError
from pipeline.recipe import models
from pipeline.recipe.references import is_hub_id
from pipeline.store.cache import staged
from pipeline.store.hub import resolve_model
from pipeline.store.inputs import SourceFile, look_at, stored_files
from pipeline.store.objects import Store
from pipeline.store.promotions import newest_promotion
from pipeline.store.runs import RunLock, find_run
from pipeline.store.standing import check_gate
from pipeline.store.status import require_done


@dataclass(frozen=True)
class NamedModel:
    """What a MODEL word means: the files of a checkpoint or adapter, and where they come from."""

    label: str
    files: list[SourceFile]
    lock: RunLock | None = None
    stage: str | None = None

    def path(self, only: Sequence[str] = ()) -> Path:
        """A local folder with the files, or with `only` these of them, checked against their checksums."""
        return staged([file for file in self.files if not only or file.name in only])


def named_model(store: Store, word: str, promotion_number: int | None = None) -> NamedModel:
    """Resolve a MODEL word; UserError when it names nothing, or more than one thing.

    With `promotion_number` the word `promoted[@RECIPE]` means that promotion and not the highest.
    """
    if word.partition("@")[0] == "promoted":
        promotion = newest_promotion(store, word.partition("@")[2], promotion_number)
        return run_output(
            store, f"{promotion['run']}:{promotion['stage']}", f"promotion {promotion['n']} of {promotion['recipe']}"
        )
    if "://" in word or word.startswith((".", "/", "~")) or Path(word).is_dir():
        return NamedModel(word, list(look_at(word, word).files))
    if is_hub_id(word):
        model = resolve_model(store, word)
        return NamedModel(f"{word}@{model.revision}", stored_files(store, model.parts))
    if ":" in word:
        return run_output(store, word, word)
    raise UserError(
        f"{word!r} names no model",
        "Say RUN:STAGE (e.g. latest:merge2), promoted[@RECIPE], a folder or URL, or a mirrored Hub id",
    )


def run_output(store: Store, word: str, label: str) -> NamedModel:
    """The model or adapter that a stage of a run made: `RUN:STAGE` or `RUN:STAGE/OUTPUT`."""
    run, _, rest = word.rpartition(":")
    stage, _, output = rest.partition("/")
    lock = find_run(store, run)
    settings = lock.settings(stage)
    manifest = require_done(store, lock, stage)
    check_gate(lock, stage, manifest)
    outputs = type(settings).OUTPUTS
    output = output or next(iter(outputs))
    if output not in outputs:
        raise UserError(f"{word!r}: stage {stage!r} has no output {output!r}; {models.nearest(output, list(outputs))}")
    return NamedModel(label, stored_files(store, manifest.outputs[output]), lock, stage)
