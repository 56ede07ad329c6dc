"""What a recipe will do, before anything runs: the DAG, what is done and why not, steps, tokens, disk and memory.

Works with a store that holds nothing yet: shapes of known models come with hanforge, row counts from the recipe.
Figures that only an upper bound is known for are said to be at most that.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import orjson

from pipeline.errors import UserError
from pipeline.merging.settings import MergeSettings
from pipeline.recipe import models
from pipeline.recipe.images import image_of
from pipeline.recipe.known_models import known_config, licence_note
from pipeline.recipe.profiles import Profile, profile_names, profiles
from pipeline.recipe.references import InputReference, StageReference, is_hub_id, references_in
from pipeline.store.inputs import Source
from pipeline.store.objects import Store
from pipeline.store.pins import resolve, root_of, small_file
from pipeline.store.runs import RunLock, known_run, reference_key
from pipeline.store.standing import standing
from pipeline.store.status import why_not_done
from pipeline.teacher.settings import AugmentSettings, ValidateSettings
from pipeline.text.settings import PrepareSettings
from pipeline.training.estimate import estimate
from pipeline.training.parameters import parameter_counts
from pipeline.training.settings import TrainSettings

GIB = 2**30


@dataclass
class StagePlan:
    """One stage: what it reads and writes, its state, and what it will take. None where nobody can know yet."""

    name: str
    kind: str
    profile: str
    image: str
    needs: list[str]
    reads: list[str]
    writes: list[str]
    done: bool
    why: str
    rows: int | None = None
    steps: int | None = None
    tokens_at_most: int | None = None
    disk_gib: float | None = None
    memory_gib: float | None = None
    card_gib: float | None = None
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool | None:
        """Whether the estimate fits one card of the profile; None without a card or an estimate."""
        return None if self.memory_gib is None or self.card_gib is None else self.memory_gib <= self.card_gib


@dataclass
class Plan:
    """The whole recipe's plan. `absent` says what is missing of inputs and models."""

    recipe: str
    description: str
    stages: list[StagePlan]
    absent: dict[str, str]

    def plain(self) -> dict[str, Any]:
        """As JSON values, for `plan --json`."""
        stages = [{**asdict(stage), "fits": stage.fits} for stage in self.stages]
        return {"recipe": self.recipe, "absent": self.absent, "stages": stages}


class _Planner:
    """What several stages ask for: rows of upstream stages, configurations of bases."""

    def __init__(self, store: Store, lock: RunLock, known: dict[str, Profile]) -> None:
        self.store, self.lock, self.profiles = store, lock, known
        self.standing = {name: standing(store, lock, name) for name in lock.recipe.stages}

    def rows(self, reference: Any) -> int | None:
        """Rows behind a reference: counted when done, else what the settings promise at most."""
        if isinstance(reference, list):
            counts = [self.rows(item) for item in reference]
            return None if None in counts else sum(count or 0 for count in counts)
        if not isinstance(reference, StageReference):
            return None
        settings = self.lock.recipe.stages[reference.stage]
        output = models.output_name(settings, reference)
        manifest = self.standing[reference.stage].manifest
        if manifest is not None:
            return sum(part.rows for part in manifest.outputs.get(output, []))
        return self.expected(settings) if output == next(iter(type(settings).OUTPUTS)) else None

    def expected(self, settings: Any) -> int | None:
        """Rows that a stage of these settings gives at most."""
        if settings.expected_rows is not None:
            return int(settings.expected_rows)
        if isinstance(settings, PrepareSettings):
            return settings.target_samples
        if isinstance(settings, AugmentSettings):
            rows = self.rows(settings.source)
            return None if rows is None else round(rows * settings.sample_ratio)
        return self.rows(settings.source) if isinstance(settings, ValidateSettings) else None

    def config(self, reference: Any) -> dict[str, Any] | None:
        """config.json of the checkpoint behind a reference, through merges to their base."""
        root = root_of(self.lock, reference)
        content = small_file(self.store, self.lock, root, "config.json") if root is not None else None
        if content is None:
            return known_config(root.split("@")[0]) if is_hub_id(root) else None
        return orjson.loads(content)  # type: ignore[no-any-return]


def plan_of(
    recipe: models.Recipe,
    store_url: str,
    overrides: dict[str, str],
    profile: str | None = None,
    profiles_file: str | None = None,
) -> Plan:
    """The recipe's plan against a store. Raises UserError for ids known to be wrong and unknown profiles."""
    store = Store(store_url)
    absent: dict[str, str] = {}
    lock = resolve(store, recipe, overrides, None, profile, profiles_file, absent)
    planner = _Planner(store, known_run(store, lock) or lock, profiles(profiles_file))
    names = profile_names({name: settings.profile for name, settings in recipe.stages.items()}, profile)
    stages = [_stage_plan(planner, name, names[name], absent) for name in models.order(recipe)]
    return Plan(recipe.name, recipe.description, stages, absent)


def check_fits(stages: list[StagePlan]) -> None:
    """UserError, with the arithmetic, when a stage that is not done takes more memory than its profile's cards have."""
    for stage in stages:
        if not stage.done and stage.fits is False:
            raise UserError(
                f"stage {stage.name!r} takes about {stage.memory_gib:.1f} GiB of a card, and profile "
                f"{stage.profile!r} has {stage.card_gib} GiB: {'; '.join(stage.lines)}",
                "Choose another profile, or lower per_device_train_batch_size, max_length or lora.r",
            )


def _stage_plan(planner: _Planner, name: str, profile: str, absent: dict[str, str]) -> StagePlan:
    lock, settings = planner.lock, planner.lock.recipe.stages[name]
    found = planner.standing[name]
    manifest = found.manifest
    where = planner.profiles[profile]
    references = [reference for _, reference, _ in references_in(settings)]
    missing = [reference_key(r) for r in references if not isinstance(r, StageReference) and reference_key(r) in absent]
    why = why_not_done(planner.store, lock, name)
    if missing and manifest is None:
        why = f"{', '.join(missing)} is missing"
    planned = StagePlan(
        name,
        settings.kind,
        profile,
        image_of(settings),
        list(lock.stages[name].needs),
        list(dict.fromkeys(_described(lock, reference) for reference in references)),
        list(type(settings).OUTPUTS),
        found.done,
        why,
        card_gib=where.gpu.memory_gib if where.gpu else None,
        notes=list(dict.fromkeys(note for r in references if is_hub_id(r) and (note := licence_note(r.split("@")[0])))),
    )
    planned.rows = manifest.counts.ok if manifest is not None else planner.expected(settings)
    if isinstance(settings, TrainSettings):
        _add_training(planner, planned, settings, lock.stages[name].execution)
    elif isinstance(settings, MergeSettings):
        _add_checkpoint(planned, planner.config(settings.base or settings.adapter))
    elif isinstance(settings, PrepareSettings):
        held = sum(file.bytes for source in _sources(lock, references) for file in source.files)
        planned.disk_gib = held / GIB if held else None
        planned.lines.append(
            f"disk: at most what it reads, {held / GIB:.2f} GiB" if held else "disk: at most what it reads"
        )
    return planned


def _add_training(planner: _Planner, planned: StagePlan, settings: TrainSettings, runs_as: Any) -> None:
    rows, config = planner.rows(settings.data_references), planner.config(settings.base)
    planned.rows = rows
    if config is None:
        planned.lines.append("memory: the base's config.json is not known before it is mirrored (hanforge fetch)")
        return
    counted = rows or settings.total_batch
    found = estimate(config, settings, rows=counted, precision=runs_as.precision, world_size=runs_as.world_size)
    planned.memory_gib = found.total_gib
    planned.disk_gib = found.checkpoint_gib * (settings.save_total_limit + 1)
    if rows is None and settings.max_steps is None:
        planned.lines.extend(line for line in found.lines if not line.startswith("optimizer steps"))
        planned.lines.append("optimizer steps: not known before the rows are counted (expected_rows helps)")
        return
    planned.lines.extend(found.lines)
    planned.steps = found.steps
    seen = found.steps * settings.total_batch
    planned.tokens_at_most = seen * settings.max_length
    planned.lines.append(
        f"tokens: at most {found.steps:,} steps x {settings.total_batch} x {settings.max_length} "
        f"= {planned.tokens_at_most / 1e6:,.0f} M"
    )


def _add_checkpoint(planned: StagePlan, config: dict[str, Any] | None) -> None:
    if config is None:
        return
    total = parameter_counts(config).total
    planned.disk_gib = total * 2 / GIB
    planned.lines.append(
        f"disk: {total / 1e9:.2f} B parameters x 2 B = {planned.disk_gib:.1f} GiB; memory: the largest shard"
    )


def _sources(lock: RunLock, references: list[Any]) -> list[Source]:
    keys = [reference_key(reference) for reference in references if not isinstance(reference, StageReference)]
    return [lock.inputs[key] for key in keys if key in lock.inputs]


def _described(lock: RunLock, reference: Any) -> str:
    """A reference in words. Example: {stage: prepare, output: heldout} -> "prepare/heldout" """
    if isinstance(reference, StageReference):
        return f"{reference.stage}/{models.output_name(lock.recipe.stages[reference.stage], reference)}"
    if is_hub_id(reference):
        return str(reference)
    source = lock.inputs[reference_key(reference)]
    size = sum(file.bytes for file in source.files)
    held = f" ({len(source.files)} files, {size / 1e6:,.1f} MB)" if source.files else ""
    return (f"input {reference.input}" if isinstance(reference, InputReference) else str(reference)) + held
