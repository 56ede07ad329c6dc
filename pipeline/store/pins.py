"""What a run refers to outside the store's stages, and what that pins: identities, fingerprints, executions.

`resolve` looks at the world as it is now and gives a lock; `runs.create_run` keeps it. From then on whoever reads an
external file, or asks what a reference stands for, asks the lock through here.
"""

import time
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from pipeline.errors import UserError
from pipeline.recipe import models
from pipeline.recipe.fingerprint import fingerprint
from pipeline.recipe.profiles import execution, profile_names, profiles
from pipeline.recipe.references import InputReference, StageReference, is_hub_id, references_in
from pipeline.store.hub import NotMirrored, resolve_model
from pipeline.store.inputs import MissingInput, Source, SourceFile, look_at, stored_files
from pipeline.store.objects import Store
from pipeline.store.runs import RunLock, StageLock, reference_key


def external_references(recipe: models.Recipe) -> dict[str, Any]:
    """Every reference that is not to a stage, by its key in a lock: `input:raw`, a Hub id or a URL."""
    found: dict[str, Any] = {}
    for settings in recipe.stages.values():
        for _, reference, _ in references_in(settings):
            if not isinstance(reference, StageReference):
                found[reference_key(reference)] = reference
    return found


def resolve(
    store: Store,
    recipe: models.Recipe,
    overrides: dict[str, str] | None = None,
    keep: RunLock | None = None,
    profile: str | None = None,
    profiles_file: str | None = None,
    absent: dict[str, str] | None = None,
    pins: dict[str, str] | None = None,
) -> RunLock:
    """A lock for this recipe as the world is now, not yet created in the store.

    `overrides` maps input names to URLs; `keep` is an earlier run whose identities are taken where it has them;
    `profile` replaces every stage's own, or single ones (`profile_names`); `pins` gives commits of Hub ids not mirrored
    yet. Raises UserError for a missing input, model or profile; a caller that only looks gives `absent`, and finds
    there what each missing one says.
    """
    replaced = {f"input:{name}" for name in overrides or {}}
    kept = keep.inputs if keep else {}
    inputs: dict[str, Source] = {key: source for key, source in kept.items() if key not in replaced}
    hub_models: dict[str, str] = {**(pins or {}), **(keep.hub_models if keep else {})}
    for name in overrides or {}:
        if name not in recipe.inputs:
            raise UserError(
                f"--input {name}=...: the recipe has no input {name!r}; {models.nearest(name, list(recipe.inputs))}"
            )
    for key, reference in external_references(recipe).items():
        if key in inputs or key in hub_models:
            continue
        try:
            if is_hub_id(reference):
                hub_models[key] = resolve_model(store, reference).revision
            else:
                inputs[key] = _source_of(store, recipe, reference, overrides or {})
        except (MissingInput, NotMirrored) as error:
            if absent is None:
                raise
            absent[key] = str(error)
            inputs[key] = Source("", ())
    lock = RunLock("", recipe, inputs, hub_models, {}, time.time())
    _lock_stages(lock, profile, profiles_file)
    return lock


def _source_of(
    store: Store, recipe: models.Recipe, reference: InputReference | str, overrides: dict[str, str]
) -> Source:
    if isinstance(reference, str):
        return look_at(reference, reference)
    url = overrides.get(reference.input) or recipe.inputs[reference.input].url
    return look_at(url or f"{store.url}/inputs/{reference.input}", reference.input)


def _lock_stages(lock: RunLock, profile: str | None, profiles_file: str | None) -> None:
    """Fill in the stages, each after those that its fingerprint is made of."""
    edges, known = models.needs(lock.recipe), profiles(profiles_file)
    names = profile_names({name: settings.profile for name, settings in lock.recipe.stages.items()}, profile)
    for name in models.order(lock.recipe):
        settings, where = lock.recipe.stages[name], names[name]
        if where not in known:
            raise UserError(f"stage {name!r}: unknown profile {where!r}; {models.nearest(where, list(known))}")
        runs_as = execution(
            known[where], getattr(settings, "precision", "auto"), getattr(settings, "attention", "auto")
        )
        digest = fingerprint(settings, partial(identity, lock), runs_as)
        lock.stages[name] = StageLock(
            kind=settings.kind, fingerprint=digest, needs=tuple(edges[name]), execution=runs_as
        )


def identity(lock: RunLock, reference: Any) -> str:
    """The fingerprint or digest behind a reference of a run."""
    if isinstance(reference, StageReference):
        output = models.output_name(lock.recipe.stages[reference.stage], reference)
        return f"stage:{lock.stages[reference.stage].fingerprint}/{output}"
    key = reference_key(reference)
    if key in lock.hub_models:
        return f"hub:{key.split('@')[0]}@{lock.hub_models[key]}"
    return f"input:{lock.source(reference).digest}"


def outside_files(store: Store, lock: RunLock, reference: InputReference | str) -> list[SourceFile]:
    """The files behind a reference that is not to a stage, as the run pinned them; UserError when a model has gone."""
    if not is_hub_id(reference):
        return list(lock.source(reference).files)
    key = reference_key(reference)
    return stored_files(store, resolve_model(store, key.split("@")[0], lock.hub_models[key]).parts)


def small_file(store: Store, lock: RunLock, reference: Any, name: str) -> bytes | None:
    """A file of what an outside reference names, by its last name; None when it is not there, or not mirrored."""
    try:
        files = [file for file in outside_files(store, lock, reference) if PurePosixPath(file.name).name == name]
        found = min(files, key=lambda file: file.name.count("/"), default=None)
        return found.read_range(0, found.bytes) if found else None
    except (UserError, KeyError):  # gone; not mirrored; not pinned, by a lock that only looks
        return None


def root_of(lock: RunLock, reference: Any) -> Any:
    """What lies at the bottom of a model reference, below merges and trainings; None when another kind made it.

    Example: {stage: merge1} -> {stage: phase1} -> "Qwen/Qwen3-VL-8B-Instruct"
    """
    while isinstance(reference, StageReference):
        settings: Any = lock.settings(reference.stage)
        if settings.kind not in ("train", "merge"):
            return None
        reference = settings.base if settings.base is not None else settings.adapter
    return reference


def check_contract(lock: RunLock, stage: str) -> None:
    """UserError when this version of hanforge computes the stage otherwise than the one that made the lock."""
    standing = lock.stages[stage]
    here = fingerprint(lock.settings(stage), partial(identity, lock), standing.execution)
    if here != standing.fingerprint:
        raise UserError(
            f"stage {stage!r} of run {lock.run_id} was locked by another contract version of its kind "
            f"({standing.fingerprint}, here {here})",
            "Start a new run: hanforge run RECIPE",
        )
