"""What a teacher cost and how it answered, from what augment measured: tokens, latency, retries, quality."""

from dataclasses import asdict, dataclass
from typing import Any

QUANTILES = (0.5, 0.9, 0.99)
FLAWLESS = ("tagged", "stepped")  # counts of answers that are as they should be
FLAWED = ("chinese",)


@dataclass(frozen=True)
class Teaching:
    """Figures over all answers of a stage. `seconds` are quantiles of one answer's latency, () when nothing was timed.

    `checks` are (name, answers, of so many). Tokens of answers found in the cache count as well: the set cost them.
    """

    teacher: str
    outcomes: int
    answers: int
    failed: int
    retries: int
    prompt_tokens: int
    completion_tokens: int
    characters: int
    seconds: tuple[tuple[float, float], ...]
    checks: tuple[tuple[str, int, int], ...]

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "seconds": dict(self.seconds)}


def teaching(teacher: str, measured: dict[str, Any]) -> Teaching | None:
    """The figures of an augment stage's measurements; None when it measured no quality."""
    quality = measured.get("quality")
    if not quality or not quality["outcomes"]:
        return None
    answers = quality["answers"]
    return Teaching(
        teacher=teacher,
        **{name: quality[name] for name in ("outcomes", "failed", "retries", "prompt_tokens", "completion_tokens")},
        answers=answers,
        characters=quality["characters"],
        seconds=_quantiles(quality["seconds"]),
        checks=tuple((name, quality[name], answers) for name in (*FLAWLESS, *FLAWED) if answers),
    )


def _quantiles(bins: dict[str, int]) -> tuple[tuple[float, float], ...]:
    """From answers by upper edge in seconds: the edge that a share of the timed answers does not exceed.

    Example: {"0": 5, "1": 90, "2": 10} -> ((0.5, 1.0), (0.9, 1.0), (0.99, 2.0))
    """
    timed = sorted((float(edge), count) for edge, count in bins.items() if float(edge) > 0)
    total = sum(count for _, count in timed)
    out: list[tuple[float, float]] = []
    for share in QUANTILES if total else ():
        seen = 0
        for edge, count in timed:
            seen += count
            if seen >= share * total:
                out.append((share, edge))
                break
    return tuple(out)
