"""Everything that a report tells about a run, gathered from the store once: the source of the page and of `--json`."""

import time
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.recipe import models
from pipeline.recipe.fields import resolved
from pipeline.recipe.references import StageReference, references_in
from pipeline.reporting.curves import Curves, curves
from pipeline.reporting.data import StageData, stage_data
from pipeline.reporting.funnel import ROW_KINDS, StageFlow, stage_flow
from pipeline.reporting.lineage import code_versions
from pipeline.reporting.pairs import Pair, Prediction, pairs, wrong_predictions
from pipeline.reporting.scores import Evaluation, evaluation
from pipeline.reporting.settings_shown import settings_shown
from pipeline.reporting.why import BROKEN, reasons
from pipeline.store.commit import Manifest
from pipeline.store.objects import Store
from pipeline.store.progress import read_metrics
from pipeline.store.runs import RunLock
from pipeline.store.status import StageStatus, chain_status
from pipeline.teacher.settings import AugmentSettings

WRONG_ANSWERS = 4  # shown of each set of an evaluation
Verdict = Literal["done", "refused", "failed", "running", "stopped", "incomplete"]


@dataclass(frozen=True)
class StageFacts:
    """One stage: its status, what it reads, its settings, what it measured, and who made it."""

    status: StageStatus
    level: int
    needs: tuple[str, ...]
    settings: dict[str, Any]
    measured: dict[str, Any]
    flow: StageFlow | None
    curves: Curves | None
    data: StageData | None
    code: list[dict[str, str]]
    execution: dict[str, Any] | None

    def plain(self) -> dict[str, Any]:
        """As JSON values; what is not known is null, never zero."""
        status = self.status
        return {
            "name": status.name,
            "kind": status.kind,
            "state": status.state,
            "message": status.message,
            "rows": status.counts.plain() if status.counts and status.kind in ROW_KINDS else None,
            "seconds": status.seconds or None,
            "peak_bytes": status.peak_bytes or None,
            "gpu_peak_bytes": status.gpu_peak_bytes or None,
            "scores": self.measured.get("scores"),
            "attempts": status.attempts,
            "fingerprint": status.fingerprint,
            "needs": list(self.needs),
            "settings": self.settings,
            "flow": self.flow.plain() if self.flow else None,
            "curves": self.curves.plain() if self.curves else None,
            "data": self.data.plain() if self.data else None,
            "code": self.code,
        }


@dataclass(frozen=True)
class Report:
    """A run as the page shows it. Times are seconds since the epoch."""

    run: str
    recipe: str
    description: str
    created: float
    written: float
    store: str
    verdict: Verdict
    stages: list[StageFacts]
    evaluations: list[Evaluation]
    pairs: list[Pair] = field(default_factory=list)
    wrong: list[Prediction] = field(default_factory=list)
    promotion: dict[str, Any] | None = None
    proof: dict[str, Any] | None = None
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    hub_models: dict[str, str] = field(default_factory=dict)
    teachers: dict[str, str] = field(default_factory=dict)
    resolved_recipe: dict[str, Any] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """As JSON values: the machine's twin of the page, without sampled texts."""
        return {
            "run": self.run,
            "recipe": self.recipe,
            "created": self.created,
            "written": self.written,
            "store": self.store,
            "verdict": self.verdict,
            "stages": {stage.status.name: stage.plain() for stage in self.stages},
            "evaluations": [one.plain() for one in self.evaluations],
            "problems": dict(self.problems),
            "promotion": self.promotion,
            "proof": self.proof,
            "inputs": self.inputs,
            "hub_models": self.hub_models,
            "teachers": self.teachers,
        }

    @property
    def seconds(self) -> float:
        """The work of all stages, in seconds."""
        return sum(stage.status.seconds for stage in self.stages)


def gather(store: Store, lock: RunLock, num_samples: int = 20, seed: int = 42) -> Report:
    """Read a run's locks, manifests, metrics and a few rows; works at any point of a run."""
    place = {name: number for number, name in enumerate(models.order(lock.recipe))}
    statuses = sorted(chain_status(store, lock), key=lambda status: place[status.name])
    manifests = {status.name: lock.directory(store, status.name).manifest() for status in statuses}
    levels = _levels(lock)
    stages = [_facts(store, lock, status, manifests[status.name], levels[status.name], seed) for status in statuses]
    evaluations = [
        evaluation(lock, name, manifest.measurements if manifest else None)
        for name, manifest in manifests.items()
        if lock.stages[name].kind == "evaluate"
    ]
    return Report(
        run=lock.run_id,
        recipe=lock.recipe.name,
        description=lock.recipe.description.strip(),
        created=lock.created,
        written=time.time(),
        store=store.url,
        verdict=_verdict(statuses),
        stages=stages,
        evaluations=evaluations,
        pairs=_pairs(store, lock, manifests, num_samples, seed),
        wrong=_wrong(store, lock, manifests, WRONG_ANSWERS, seed),
        promotion=_measured(lock, manifests, "promote"),
        proof=_measured(lock, manifests, "serve"),
        inputs={key: source.plain() for key, source in lock.inputs.items()},
        hub_models=lock.hub_models,
        teachers=_teachers(lock, manifests),
        resolved_recipe=resolved(lock.recipe),
        problems=_problems(store, lock, statuses),
    )


def _facts(
    store: Store, lock: RunLock, status: StageStatus, manifest: Manifest | None, level: int, seed: int
) -> StageFacts:
    settings = lock.settings(status.name)
    records = read_metrics(lock.directory(store, status.name))
    return StageFacts(
        status=status,
        level=level,
        needs=lock.stages[status.name].needs,
        settings=settings_shown(settings),
        measured=manifest.measurements if manifest else {},
        flow=stage_flow(status.name, settings.kind, manifest) if manifest else None,
        curves=curves(records) if settings.kind == "train" and records else None,
        data=stage_data(store, lock, status.name, manifest, seed),
        code=code_versions(records),
        execution=execution_of(lock, status.name),
    )


def execution_of(lock: RunLock, name: str) -> dict[str, Any] | None:
    """Where a computing stage runs (card, precision, devices), None for stages whose result does not depend on it."""
    return lock.stages[name].execution.model_dump() if type(lock.settings(name)).COMPUTES else None


def _levels(lock: RunLock) -> dict[str, int]:
    """How many stages lie before each on its longest way: the column of its card."""
    levels: dict[str, int] = {}
    for name in models.order(lock.recipe):
        levels[name] = 1 + max((levels[other] for other in lock.stages[name].needs), default=-1)
    return levels


def _verdict(statuses: list[StageStatus]) -> Verdict:
    states = {status.state for status in statuses}
    for state in ("failed", "refused", "running", "stopped"):
        if state in states:
            return state
    return "done" if states == {"done"} else "incomplete"


def _measured(lock: RunLock, manifests: dict[str, Manifest | None], kind: str) -> dict[str, Any] | None:
    """What the first finished stage of a kind measured."""
    return next((m.measurements for name, m in manifests.items() if m and lock.stages[name].kind == kind), None)


def _teachers(lock: RunLock, manifests: dict[str, Manifest | None]) -> dict[str, str]:
    """Each teacher that answered: its name and identity."""
    found: dict[str, str] = {}
    for name, manifest in manifests.items():
        settings = lock.settings(name)
        if isinstance(settings, AugmentSettings) and manifest is not None:
            found[settings.teacher.name()] = str(manifest.measurements.get("teacher", ""))
    return found


def _problems(store: Store, lock: RunLock, statuses: list[StageStatus]) -> list[tuple[str, str]]:
    """(stage, cause and remedy) of every stage that failed, was refused or was stopped."""
    broken = {status.name for status in statuses if status.state in BROKEN}
    lines = [line.partition(": ") for line in reasons(store, lock)] if broken else []
    return [(name, words) for name, _, words in lines if name in broken]


def _pairs(store: Store, lock: RunLock, manifests: dict[str, Manifest | None], count: int, seed: int) -> list[Pair]:
    """Rows before and after augmentation, of the set that passed validation where there is one."""
    augmented = [name for name in manifests if lock.stages[name].kind == "augment" and manifests[name]]
    validated = {
        reference.stage: name
        for name in manifests
        if lock.stages[name].kind == "validate" and manifests[name]
        for _, reference, _ in references_in(lock.settings(name))
        if isinstance(reference, StageReference)
    }
    out: list[Pair] = []
    for name in augmented:
        out.extend(pairs(store, lock, name, validated.get(name), count, seed))
    return out


def _wrong(
    store: Store, lock: RunLock, manifests: dict[str, Manifest | None], count: int, seed: int
) -> list[Prediction]:
    out: list[Prediction] = []
    for name, manifest in manifests.items():
        if manifest is not None and lock.stages[name].kind == "evaluate":
            out.extend(wrong_predictions(store, lock, name, count, seed))
    return out
