"""Everything that a report tells about a run, gathered from the store once: the source of the page and of `--json`."""

import time
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipeline.recipe import models
from pipeline.recipe.fields import resolved
from pipeline.recipe.references import StageReference, references_in
from pipeline.reporting.curves import Curves, curves
from pipeline.reporting.data import StageData, stage_data
from pipeline.reporting.examples import Example, pairs, wrong_predictions
from pipeline.reporting.funnel import ROW_KINDS, StageFlow, stage_flow
from pipeline.reporting.lineage import code_versions, execution_of
from pipeline.reporting.rows import Committed, committed
from pipeline.reporting.scores import Evaluation, evaluation
from pipeline.reporting.settings_shown import settings_shown
from pipeline.reporting.why import BROKEN, explained
from pipeline.store.objects import Store
from pipeline.store.progress import read_metrics
from pipeline.store.runs import RunLock
from pipeline.store.status import StageStatus, chain_status
from pipeline.teacher.settings import AugmentSettings

WRONG_ANSWERS = 4  # shown of each set of an evaluation
Verdict = Literal["done", "refused", "failed", "running", "stopped", "incomplete"]
Found = dict[str, Committed]


@dataclass(frozen=True)
class StageFacts:
    """One stage: its status, what it reads, its settings, what it measured, and who made it.

    `level` is how many stages lie before it on its longest way: the column of its card.
    """

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
            **{name: getattr(status, name) for name in ("name", "kind", "state", "message")},
            "rows": status.counts.plain() if status.counts and status.kind in ROW_KINDS else None,
            **{name: getattr(status, name) or None for name in ("seconds", "peak_bytes", "gpu_peak_bytes")},
            "scores": self.measured.get("scores"),
            "attempts": status.attempts,
            "fingerprint": status.fingerprint,
            "needs": list(self.needs),
            "settings": self.settings,
            "flow": asdict(self.flow) if self.flow else None,
            "curves": asdict(self.curves) if self.curves else None,
            "data": self.data.plain() if self.data else None,
            "code": self.code,
        }


@dataclass(frozen=True)
class Report:
    """A run as the page shows it. Times are seconds since the epoch; `wrong` has the wrong answers by stage."""

    run: str
    recipe: str
    description: str
    created: float
    written: float
    store: str
    verdict: Verdict
    stages: list[StageFacts]
    evaluations: list[Evaluation]
    problems: dict[str, str]
    promotion: dict[str, Any] | None
    proof: dict[str, Any] | None
    inputs: dict[str, dict[str, Any]]
    hub_models: dict[str, str]
    teachers: dict[str, str]
    pairs: list[Example]
    wrong: dict[str, list[Example]]
    resolved_recipe: dict[str, Any]

    def plain(self) -> dict[str, Any]:
        """As JSON values: the machine's twin of the page, without sampled texts."""
        as_they_are = ("run", "recipe", "created", "written", "store", "verdict", "problems", "promotion", "proof",
                       "inputs", "hub_models", "teachers")  # fmt: skip
        return {
            **{name: getattr(self, name) for name in as_they_are},
            "stages": {stage.status.name: stage.plain() for stage in self.stages},
            "evaluations": [asdict(one) for one in self.evaluations],
        }

    @property
    def seconds(self) -> float:
        """The work of all stages, in seconds."""
        return sum(stage.status.seconds for stage in self.stages)

    @property
    def examples(self) -> list[Example]:
        """Every row that is shown."""
        shown = [stage.data for stage in self.stages if stage.data]
        rows = [row for data in shown for row in (*data.rejections, *data.prepared)]
        return [*self.pairs, *(one for answers in self.wrong.values() for one in answers), *rows]


def gather(store: Store, lock: RunLock, num_samples: int = 20, seed: int = 42) -> Report:
    """Read a run's locks, manifests, metrics and a few rows; works at any point of a run."""
    statuses = {status.name: status for status in chain_status(store, lock)}
    order = models.order(lock.recipe)
    found = {name: one for name in order if (one := committed(lock.directory(store, name)))}
    done = {name: one for name, one in found.items() if one.whole}
    levels: dict[str, int] = {}
    for name in order:
        levels[name] = 1 + max((levels[other] for other in lock.stages[name].needs), default=-1)
    asked = [name for name in order if lock.stages[name].kind == "evaluate"]
    answered = {name: done[name].rows(store, "predictions") for name in asked if name in done}
    wrong = {name: wrong_predictions(rows, WRONG_ANSWERS, seed) for name, rows in answered.items()}
    return Report(
        run=lock.run_id,
        recipe=lock.recipe.name,
        description=lock.recipe.description.strip(),
        created=lock.created,
        written=time.time(),
        store=store.url,
        verdict=_verdict({status.state for status in statuses.values()}),
        stages=[_facts(store, lock, statuses[name], found.get(name), levels[name], seed) for name in order],
        evaluations=[evaluation(lock, name, done[name].measurements if name in done else None) for name in asked],
        problems=_problems(store, lock, statuses),
        promotion=_measured(lock, done, "promote"),
        proof=_measured(lock, done, "serve"),
        inputs={key: source.plain() for key, source in lock.inputs.items()},
        hub_models=lock.hub_models,
        teachers=_teachers(lock, done),
        pairs=_pairs(store, lock, done, num_samples, seed),
        wrong={name: examples for name, examples in wrong.items() if examples},
        resolved_recipe=resolved(lock.recipe),
    )


def _facts(
    store: Store, lock: RunLock, status: StageStatus, found: Committed | None, level: int, seed: int
) -> StageFacts:
    settings = lock.settings(status.name)
    records = read_metrics(lock.directory(store, status.name))
    done = found if found and found.whole else None
    return StageFacts(
        status=status,
        level=level,
        needs=lock.stages[status.name].needs,
        settings=settings_shown(settings),
        measured=done.measurements if done else {},
        flow=stage_flow(status.name, settings.kind, done.counts, done.measurements) if done else None,
        curves=curves(records) if settings.kind == "train" and records else None,
        data=stage_data(store, lock, status.name, found, seed),
        code=code_versions(records),
        execution=execution_of(lock, status.name),
    )


def _verdict(states: set[str]) -> Verdict:
    worst: tuple[Verdict, ...] = ("failed", "refused", "running", "stopped")
    return next((state for state in worst if state in states), "done" if states == {"done"} else "incomplete")


def _problems(store: Store, lock: RunLock, statuses: dict[str, StageStatus]) -> dict[str, str]:
    """Cause and remedy of every stage that failed, was refused or was stopped."""
    broken = {name for name, status in statuses.items() if status.state in BROKEN}
    return {name: words for name, words in explained(store, lock, statuses).items() if name in broken} if broken else {}


def _measured(lock: RunLock, done: Found, kind: str) -> dict[str, Any] | None:
    """What the first finished stage of a kind measured."""
    return next((one.measurements for name, one in done.items() if lock.stages[name].kind == kind), None)


def _teachers(lock: RunLock, done: Found) -> dict[str, str]:
    """Each teacher that answered: its name and identity."""
    asked = {name: lock.settings(name) for name in done}
    return {
        settings.teacher.name(): str(done[name].measurements.get("teacher", ""))
        for name, settings in asked.items()
        if isinstance(settings, AugmentSettings)
    }


def _pairs(store: Store, lock: RunLock, done: Found, count: int, seed: int) -> list[Example]:
    """Rows before and after augmentation, of the set that passed validation where there is one that has rows."""
    shown = {name: one.rows(store, "rows") for name, one in done.items() if lock.stages[name].kind == "augment"}
    for name in (name for name in done if lock.stages[name].kind == "validate"):
        for _, reference, _ in references_in(lock.settings(name)):
            passed = done[name].rows(store, "rows")
            if isinstance(reference, StageReference) and reference.stage in shown and passed.total:
                shown[reference.stage] = passed
    return [pair for rows in shown.values() for pair in pairs(rows, count, seed)]
