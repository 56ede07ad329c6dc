"""The kind `merge` on a store: every file of the result is a unit, written, uploaded and committed by itself.

A killed merge goes on at the first file that is not committed; several workers share the files.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.merging.carry import carry_along
from pipeline.merging.checkpoint import RECORD_NAME, open_checkpoint, read_json, weights_digest, write_json
from pipeline.merging.plan import MergedFile, MergePlan, plan_merge
from pipeline.recipe.references import StageReference
from pipeline.store.commit import Counts
from pipeline.store.disk import require_room
from pipeline.store.division import undone
from pipeline.store.stage import Stage

REST = "rest"  # the unit of everything that is not weights


def base_reference(stage: Stage) -> Any:
    """The base to merge into: the setting, or the base that the adapter's train stage names. Raises UserError."""
    settings = stage.settings
    if settings.base is not None:
        return settings.base
    trained = _trained_base(stage)
    if trained is not None:
        return trained
    raise UserError(
        f"stage {stage.name!r}: `base` is left out, and the adapter {_spoken(settings.adapter)} is no train stage",
        "Set `base` to the checkpoint that the adapter was trained on.",
    )


def preflight(stage: Stage) -> None:
    """Find at the start what would make the result wrong: another base, a quantised one, weights that fit nowhere."""
    base = base_reference(stage)
    _check_trained_base(stage, base)
    _, plan = _planned(stage)
    needed = max(file.bytes for file in plan.files)
    remedy = "Free disk space, point HANFORGE_SCRATCH to a larger disk, or lower max_shard_gib."
    require_room(stage.scratch(), needed, remedy)


def early(stage: Stage) -> None:
    """Before a chain starts: all of preflight when base and adapter are there, else whether `base` is the trained one.

    Both are looked at whole, not as outlines: weights are compared. Without torch, as in a cluster's driver, the
    merge's own pod is left to do its preflight.
    """
    whole = Stage(stage.store, stage.lock, stage.name)
    base, trained = base_reference(whole), _trained_base(whole)
    whole.shown = stage.shown
    if find_spec("torch") is not None and whole.is_there(base) and whole.is_there(whole.settings.adapter):
        preflight(whole)
    elif trained is not None and whole.is_there(base) and whole.is_there(trained):
        _check_trained_base(whole, base)


def run(stage: Stage) -> None:
    """Merge and commit file by file; gives a folder output `model` that from_pretrained and vLLM load."""
    folders, plan = _planned(stage)
    units = {f"{number:05d}": file for number, file in enumerate(plan.files, 1)}
    names = [*units, REST]
    stage.directory.plan(lambda: {"units": names, "files": [file.name for file in plan.files]})
    total_bytes = sum(file.bytes for file in plan.files)
    for unit in undone(stage, names):
        _merge_unit(stage, unit, units.get(unit), plan, folders)
        finished = stage.directory.done_names()
        done_bytes = sum(file.bytes for name, file in units.items() if name in finished)
        stage.progress.update(done=done_bytes, total=total_bytes, unit="bytes")
    changed = sum(tensor.change is not None for tensor in plan.tensors)
    stage.directory.commit_manifest(
        names,
        {
            "tensors": sum(len(file.tensors) for file in plan.files),
            "changed": changed,
            "weight_bytes": total_bytes,
            "untied": plan.untied,
            "base": stage.identity(base_reference(stage)),
            "adapter": stage.identity(stage.settings.adapter),
        },
    )


def _planned(stage: Stage) -> tuple[tuple[Path, Path], MergePlan]:
    settings = stage.settings
    base, adapter = stage.model_path(base_reference(stage)), stage.model_path(settings.adapter)
    return (base, adapter), plan_merge(base, adapter, settings.dtype, settings.max_shard_gib)


def _merge_unit(stage: Stage, unit: str, file: MergedFile | None, plan: MergePlan, folders: tuple[Path, Path]) -> None:
    """Write one unit into scratch, upload it, commit it, and give the disk space back."""
    from pipeline.merging.write import write_file  # torch: the driver in a cluster looks at `early` without it

    folder = stage.scratch() / unit
    folder.mkdir(parents=True, exist_ok=True)
    if file is not None:
        path = folder / file.name
        write_file(file, path, stage.stop.raise_if_requested, stage.settings.concurrency)
        part = stage.directory.write_file(unit, path, file.name)
        path.unlink()
        counts = Counts(planned=len(file.tensors), ok=len(file.tensors))
        stage.directory.commit_unit(unit, {"model": [part]}, counts)
        return
    carry_along(*folders, plan, folder)
    made_of = {"base": base_reference(stage), "adapter": stage.settings.adapter}
    record = {name: {"identity": stage.identity(reference)} for name, reference in made_of.items()}
    write_json(folder / RECORD_NAME, {"kind": "merge", **record})
    stage.directory.commit_unit(unit, {"model": stage.directory.write_directory(unit, folder)}, Counts())


def _trained_base(stage: Stage) -> Any:
    """The base that the adapter's train stage names; None for an adapter that no train stage of this run made."""
    adapter = stage.settings.adapter
    if not isinstance(adapter, StageReference):
        return None
    return getattr(stage.lock.settings(adapter.stage), "base", None)


def _check_trained_base(stage: Stage, base: Any) -> None:
    """Compare the base with the one that the adapter's stage trained on: same reference, or the same weights."""
    trained = _trained_base(stage)
    if trained is None or stage.identity(trained) == stage.identity(base):
        return
    trained_folder = stage.model_path(trained)
    if read_json(trained_folder / "config.json", "a checkpoint has a config.json").get("quantization_config"):
        stage.log.warning("the adapter was trained on a quantised checkpoint; %s is taken as its 16-bit form", base)
        return
    if weights_digest(open_checkpoint(trained_folder)) != weights_digest(open_checkpoint(stage.model_path(base))):
        made_by = stage.settings.adapter.stage
        raise UserError(
            f"stage {stage.name!r}: {made_by!r} was trained on {_spoken(trained)}, and `base` is {_spoken(base)}",
            "Leave `base` out, or name the base that the adapter was trained on.",
        )


def _spoken(reference: Any) -> str:
    return reference if isinstance(reference, str) else json.dumps(reference.model_dump(exclude_none=True))
