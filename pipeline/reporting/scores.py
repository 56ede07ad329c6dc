"""Scores of a run's evaluate stages side by side: before, between and after, with 95 % intervals.

Scores are flat: "<set>.<mode>.<metric>" to a number. Modes are `on` and `off` (thinking).
"""

from dataclasses import dataclass, field
from typing import Any

from pipeline.recipe.references import InputReference, StageReference
from pipeline.scoring.verdict import LOWER_IS_BETTER
from pipeline.store.runs import RunLock
from pipeline.teacher.forecast import share_of

HEADLINES = ("exact", "final_answer", "normalized", "passed")
DRAWN = {
    "data": ("exact", "final_answer", "normalized", "chinese", "tags", "stepped"),
    "questions": ("passed", "chinese"),
}
NEED_EXPECTED = ("exact", "final_answer", "normalized")  # few of the shipped questions have an expected answer
MEAN = "mean_"  # such metrics are amounts, all others shares from 0 to 1


@dataclass(frozen=True)
class Evaluation:
    """One evaluate stage: what model it asked, its scores by flat name, rows asked and intervals where known."""

    stage: str
    model: str
    done: bool
    scores: dict[str, float]
    rows: dict[str, int]
    intervals: dict[str, tuple[float, float]]
    sources: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Value:
    """One cell: `low` and `high` are the 95 % interval, None where it is not known."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Metric:
    """One line of the table: a value per evaluation, None where it was not measured."""

    name: str
    group: str
    mode: str
    values: tuple[Value | None, ...]

    @property
    def is_share(self) -> bool:
        """Whether values are shares from 0 to 1."""
        return not self.name.startswith(MEAN)

    @property
    def lower_is_better(self) -> bool:
        """Whether a fall is an improvement."""
        return self.name in LOWER_IS_BETTER

    @property
    def change(self) -> float | None:
        """Last measured minus first measured; None with fewer than two."""
        known = [value.value for value in self.values if value is not None]
        return known[-1] - known[0] if len(known) > 1 else None


def model_name(lock: RunLock, stage: str) -> str:
    """What an evaluate stage asked: a stage's name, an input's, or the last part of an id or URL."""
    reference = getattr(lock.settings(stage), "model", None)
    if isinstance(reference, StageReference):
        return reference.stage
    if isinstance(reference, InputReference):
        return reference.input
    return str(reference).rstrip("/").rsplit("/", 1)[-1].split("@")[0]


def evaluation(lock: RunLock, stage: str, measured: dict[str, Any] | None) -> Evaluation:
    """An evaluate stage's scores from its manifest's measurements, None while it is not done."""
    found = measured or {}
    scores = {name: float(value) for name, value in found.get("scores", {}).items() if isinstance(value, (int, float))}
    averages = {
        f"{group}.{mode}": one for group, modes in found.get("averages", {}).items() for mode, one in modes.items()
    }
    rows = {name: int(one["rows"]) for name, one in averages.items()}
    intervals = {name: pair for name, value in scores.items() if (pair := _interval(name, value, rows))}
    sources = {name: one["sources"] for name, one in averages.items()}
    return Evaluation(stage, model_name(lock, stage), measured is not None, scores, rows, intervals, sources)


def metrics(evaluations: list[Evaluation]) -> list[Metric]:
    """The table: every metric that any evaluation measured, best-known ones first in each set, modes side by side."""
    names = {name for one in evaluations for name in one.scores if name.count(".") >= 2}
    return [_metric(name, evaluations) for name in sorted(names, key=_rank)]


def _metric(name: str, evaluations: list[Evaluation]) -> Metric:
    group, mode, metric = name.split(".", 2)
    values = [
        Value(one.scores[name], *one.intervals.get(name, (None, None))) if name in one.scores else None
        for one in evaluations
    ]
    return Metric(metric, group, mode, tuple(values))


@dataclass(frozen=True)
class Cell:
    """A value of the evaluation at `place` in one mode; `value` is None for an evaluation that has not run."""

    place: int
    mode: str
    value: Value | None


@dataclass(frozen=True)
class Headline:
    """The metric that speaks for the run: for each evaluation that measured it, the mode in which it did best."""

    metric: Metric
    cells: tuple[Cell, ...]

    @property
    def modes(self) -> list[str]:
        """The mode of each cell; one entry when they are all alike."""
        found = [cell.mode for cell in self.cells]
        return found if len(set(found)) > 1 else found[:1]


def headline(table: list[Metric]) -> Headline | None:
    """The first of `HEADLINES` that was measured, on held-out rows before the shipped questions."""
    for group in DRAWN:
        for name in HEADLINES:
            found = [metric for metric in table if (metric.group, metric.name) == (group, name) and any(metric.values)]
            if found:
                columns = [_cells(found, place) for place in range(len(found[0].values))]
                best = [
                    max(cells, key=lambda cell: cell.value.value if cell.value else 0) for cells in columns if cells
                ]
                return Headline(found[0], tuple(best))
    return None


def bars(table: list[Metric], evaluations: list[Evaluation]) -> list[tuple[Metric, list[tuple[str, list[Cell]]]]]:
    """What is drawn: each of the best-known metrics with its bars in groups, (mode or "", cells).

    Groups are modes; when no evaluation measured two of them, all bars stand in one group and name their own mode.
    """
    out = []
    for group, names in DRAWN.items():
        for name in names:
            modes = [metric for metric in table if (metric.group, metric.name) == (group, name) and any(metric.values)]
            if modes:
                out.append((modes[0], _groups(modes, evaluations)))
    return out


def _groups(modes: list[Metric], evaluations: list[Evaluation]) -> list[tuple[str, list[Cell]]]:
    measured = [_cells(modes, place) for place in range(len(evaluations))]
    waiting = [place for place, one in enumerate(evaluations) if not one.done]
    if len(modes) > 1 and all(len(cells) < 2 for cells in measured):
        cells = [cell for found in measured for cell in found] + [Cell(place, "", None) for place in waiting]
        return [("", sorted(cells, key=lambda cell: cell.place))]
    return [
        (
            metric.mode,
            [Cell(n, metric.mode, value) for n, value in enumerate(metric.values) if value or n in waiting],
        )
        for metric in modes
    ]


def _cells(modes: list[Metric], place: int) -> list[Cell]:
    return [Cell(place, metric.mode, metric.values[place]) for metric in modes if metric.values[place]]


def by_source(evaluations: list[Evaluation], best: Headline) -> list[tuple[str, list[float | None]]]:
    """The headline's metric by source of the rows: (source, a value per evaluation); empty with a single source."""
    modes = {cell.place: cell.mode for cell in best.cells}
    group, name = best.metric.group, best.metric.name
    found = [one.sources.get(f"{group}.{modes.get(place)}", {}) for place, one in enumerate(evaluations)]
    names = sorted({source for sources in found for source in sources})
    rows = [(source, [sources.get(source, {}).get(name) for sources in found]) for source in names]
    return rows if len(rows) > 1 else []


def _rank(name: str) -> tuple[str, int, str, str]:
    group, mode, metric = name.split(".", 2)
    place = HEADLINES.index(metric) if metric in HEADLINES else len(HEADLINES)
    return ("" if group == "data" else group, place, metric, mode)


def _interval(name: str, value: float, rows: dict[str, int]) -> tuple[float, float] | None:
    """The interval of a share over all rows asked; None for means and where the rows are not known."""
    group, _, metric = name.rpartition(".")
    if group.startswith("questions.") and metric in NEED_EXPECTED:
        return None
    if group not in rows or metric.startswith(MEAN) or not 0 <= value <= 1:
        return None
    interval = share_of(round(value * rows[group]), rows[group])
    return interval.low, interval.high
