"""The gate over a validated set: limits (operational) against stored measurements, computed whenever it is read."""

from typing import Any

from pydantic import Field

from pipeline.recipe.fields import Closed


class Limits(Closed):
    """What the whole set must meet. Rates are shares of all rows checked, 0 to 1; null switches a limit off."""

    min_rows: int | None = Field(default=1, ge=0, description="Fewest rows that pass.")
    min_pass_rate: float | None = Field(default=0.8, ge=0, le=1, description="Least share that passes every check.")
    min_tag_rate: float | None = Field(
        default=None, ge=0, le=1, description="Least share with `<think>` opened and closed."
    )
    min_step_rate: float | None = Field(default=None, ge=0, le=1, description="Least share with enough `N단계:` steps.")
    min_final_answer_rate: float | None = Field(
        default=None, ge=0, le=1, description="Least share with a final answer."
    )
    max_chinese_rate: float | None = Field(default=None, ge=0, le=1, description="Largest share with Chinese.")
    max_loop_rate: float | None = Field(default=None, ge=0, le=1, description="Largest share with repetition loops.")
    max_truncated_rate: float | None = Field(default=None, ge=0, le=1, description="Largest share that breaks off.")
    min_source_pass_rate: float | None = Field(
        default=None, ge=0, le=1, description="Least share that passes in each source by itself."
    )


# limit -> (the measured count it speaks of, in words)
COUNTED = {
    "pass_rate": ("passed", "rows passed every check"),
    "tag_rate": ("tagged", "rows have <think> opened and closed"),
    "step_rate": ("stepped", "rows have enough steps"),
    "final_answer_rate": ("answered", "rows have a final answer"),
    "chinese_rate": ("chinese", "rows have Chinese"),
    "loop_rate": ("looping", "rows repeat themselves"),
    "truncated_rate": ("truncated", "rows break off"),
}


def refusals(limits: Limits, measurements: dict[str, Any]) -> list[str]:
    """The limits that `measurements` (of a validate manifest) miss, one sentence each; empty when the gate is open.

    Example: "min_pass_rate 0.8 is missed by 0.050: 750 of 1000 rows passed every check (0.750)"
    """
    checked, counts = int(measurements["checked"]), measurements["counts"]
    out: list[str] = []
    if limits.min_rows is not None and counts["passed"] < limits.min_rows:
        missing = limits.min_rows - counts["passed"]
        out.append(f"min_rows {limits.min_rows} is missed by {missing}: {counts['passed']} of {checked} rows passed")
    for field in type(limits).model_fields:
        bound = getattr(limits, field)
        side, _, rate_name = field.partition("_")
        if bound is None or rate_name not in COUNTED:
            continue
        name, words = COUNTED[rate_name]
        rate = counts[name] / checked if checked else 0.0
        missed = bound - rate if side == "min" else rate - bound
        if missed > 0:
            how = "missed" if side == "min" else "exceeded"
            out.append(f"{field} {bound} is {how} by {missed:.3f}: {counts[name]} of {checked} {words} ({rate:.3f})")
    return out + _by_source(limits, measurements)


def _by_source(limits: Limits, measurements: dict[str, Any]) -> list[str]:
    if limits.min_source_pass_rate is None:
        return []
    out: list[str] = []
    for source, numbers in sorted(measurements["sources"].items()):
        rate = numbers["passed"] / numbers["checked"]
        if rate < limits.min_source_pass_rate:
            missed = limits.min_source_pass_rate - rate
            out.append(
                f"min_source_pass_rate {limits.min_source_pass_rate} is missed by {missed:.3f} in source {source!r}: "
                f"{numbers['passed']} of {numbers['checked']} rows passed ({rate:.3f})"
            )
    return out
