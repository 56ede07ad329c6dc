"""The stop rule of augment: limits on what the teacher's answers measure so far, so that a bad prompt costs minutes."""

from typing import Any, Self

from pydantic import Field, model_validator

from pipeline.recipe.fields import Closed


class StopRule(Closed):
    """When the stage ends at once, exit code 3. Shares are of the teacher's answers so far, 0 to 1; null: no limit."""

    after: int = Field(default=500, ge=1, description="Outcomes that are waited for before anything is judged.")
    tag_rate_below: float | None = Field(
        default=None, ge=0, le=1, description="Least share with reasoning and an answer, both whole."
    )
    step_rate_below: float | None = Field(
        default=None, ge=0, le=1, description="Least share whose reasoning the teacher wrote in `N단계:` steps."
    )
    chinese_rate_above: float | None = Field(default=None, ge=0, le=1, description="Largest share with Chinese.")
    rejected_above: float | None = Field(
        default=None, ge=0, le=1, description="Largest share of outcomes that give no row: rejected or failed."
    )
    failed_above: float | None = Field(
        default=None, ge=0, le=1, description="Largest share of outcomes without any answer."
    )
    mean_chars_below: float | None = Field(
        default=None, ge=0, description="Least mean length of reasoning and answer together, in characters."
    )
    mean_chars_above: float | None = Field(
        default=None, ge=0, description="Largest mean length of reasoning and answer together, in characters."
    )

    @model_validator(mode="after")
    def _has_a_limit(self) -> Self:
        if all(getattr(self, name) is None for name in MEASURES):
            raise ValueError(f"stop_if has no limit and would never stop anything; set one of {', '.join(MEASURES)}")
        return self


# limit -> (measured count, out of which count, both in words, the examples that show it)
MEASURES = {
    "tag_rate_below": (
        "tagged",
        "answers",
        "{:,} of {:,} answers have reasoning and an answer, both whole",
        "untagged",
    ),
    "step_rate_below": ("stepped", "answers", "{:,} of {:,} answers have steps of the teacher's own", "unstepped"),
    "chinese_rate_above": ("chinese", "answers", "{:,} of {:,} answers have Chinese", "chinese"),
    "rejected_above": ("without_row", "outcomes", "{:,} of {:,} outcomes give no row", "without_row"),
    "failed_above": ("failed", "outcomes", "{:,} of {:,} requests were not answered", "failed"),
    "mean_chars_below": ("characters", "answers", "{:,} characters in {:,} answers", "any"),
    "mean_chars_above": ("characters", "answers", "{:,} characters in {:,} answers", "any"),
}


def broken(rule: StopRule, measured: dict[str, Any]) -> dict[str, str]:
    """The limits that measurements (`Quality.plain`) break, each with a sentence; empty before `after` outcomes.

    Example: {"tag_rate_below": "tag_rate_below 0.8 after 500: 0.412 (206 of 500 answers have reasoning ...)"}
    """
    if measured["outcomes"] < rule.after:
        return {}
    out: dict[str, str] = {}
    for name, (counted, base, words, _) in MEASURES.items():
        limit = getattr(rule, name)
        if limit is None or not measured[base]:
            continue
        value = measured[counted] / measured[base]
        if value < limit if name.endswith("_below") else value > limit:
            shown = f"{value:,.0f}" if counted == "characters" else f"{value:.3f}"
            numbers = words.format(measured[counted], measured[base])
            out[name] = f"{name} {limit:g} after {rule.after}: {shown} ({numbers})"
    return out
