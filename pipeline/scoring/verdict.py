"""The judgement over scores: limits and the comparison with what is promoted, computed whenever somebody asks.

Scores are flat: "<set>.<mode>.<metric>" to a number, such as {"data.off.exact": 0.93}. Of metrics in LOWER_IS_BETTER a
fall is an improvement.
"""

from collections.abc import Mapping
from typing import Self

from pydantic import Field, model_validator

from pipeline.recipe.fields import Closed

LOWER_IS_BETTER = ("chinese", "truncated", "empty", "failed", "mean_characters", "mean_reasoning_characters")


class Bound(Closed):
    """What a metric must reach (`min`) or stay under (`max`)."""

    min: float | None = Field(default=None)
    max: float | None = Field(default=None)

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("a limit needs min or max")
        return self


def limit_refusals(limits: Mapping[str, Bound], scores: Mapping[str, float]) -> list[str]:
    """The limits that the scores miss, a sentence each with the numbers; empty when all hold.

    Example: {"data.off.exact": {min: 0.9}}, {"data.off.exact": 0.85} ->
    ["data.off.exact is 0.850, 0.050 under its min 0.9"]
    """
    out: list[str] = []
    for metric, bound in limits.items():
        value = scores.get(metric)
        if value is None:
            out.append(f"{metric} was not measured (measured: {', '.join(sorted(scores)) or 'nothing'})")
            continue
        if bound.min is not None and value < bound.min:
            out.append(f"{metric} is {value:.3f}, {bound.min - value:.3f} under its min {bound.min:g}")
        if bound.max is not None and value > bound.max:
            out.append(f"{metric} is {value:.3f}, {value - bound.max:.3f} over its max {bound.max:g}")
    return out


def regression_refusals(
    max_drop: Mapping[str, float], scores: Mapping[str, float], before: Mapping[str, float]
) -> list[str]:
    """Where the scores fall behind those of the promoted model by more than allowed; nothing promoted, nothing to miss.

    Example: {"data.off.exact": 0.02}, {"data.off.exact": 0.85}, {"data.off.exact": 0.9} ->
    ["data.off.exact is 0.850, 0.050 worse than the promoted model's 0.900; max_drop is 0.02"]
    """
    out: list[str] = []
    for metric, allowed in max_drop.items():
        if metric not in before:
            continue
        value = scores.get(metric)
        if value is None:
            out.append(f"{metric} was not measured, and the promoted model has {before[metric]:.3f}")
            continue
        worse = value - before[metric] if metric.rpartition(".")[2] in LOWER_IS_BETTER else before[metric] - value
        if worse > allowed + 1e-12:
            out.append(
                f"{metric} is {value:.3f}, {worse:.3f} worse than the promoted model's {before[metric]:.3f}; "
                f"max_drop is {allowed:g}"
            )
    return out
