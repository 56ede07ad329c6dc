"""From a few timed answers to the time that many will take: pure arithmetic, with its uncertainty.

Little's law (J. D. C. Little, 1961): n requests in flight that take w seconds each give n / w a second. An answer's
tokens count as made evenly over its time. Counted is only the time at full level: not the first seconds, in which an
engine warms up, and not the ends, at which less is in flight than the level that was reached.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

WARM_UP_SECONDS = 5.0
WARM_UP_SHARE = 0.2  # of the time at full level: a short measurement gives no more away
FULL_SHARE = 0.8  # of the most in flight counts as the full level
RESAMPLES = 2000
Z95 = 1.96


class Range(NamedTuple):
    """A value and the interval that holds it with 95 % confidence."""

    value: float
    low: float
    high: float

    def times(self, factor: float, plus: float = 0.0) -> "Range":
        """Every figure times `factor`, and `plus` more."""
        return Range(*(figure * factor + plus for figure in self))


@dataclass(frozen=True)
class Timed:
    """One answer: when it was asked and there, in seconds of one clock, and its tokens; a failure has none."""

    began: float
    ended: float
    tokens: int


@dataclass(frozen=True)
class Speed:
    """Tokens of answers a second at a mean number in flight, over `seconds`; `left_out` seconds come before them."""

    tokens_per_second: float
    in_flight: float
    seconds: float
    left_out: float


def speed(answers: Sequence[Timed]) -> Speed:
    """What the answers say of the pace at full level."""
    begin, end, warm = _window(answers)
    tokens, busy = _inside(answers, begin, end)
    seconds = end - begin
    return Speed(sum(tokens) / seconds, sum(busy) / seconds, seconds, warm)


def seconds_each(answers: Sequence[Timed], seed: int) -> Range:
    """The seconds that one more sample takes at the measured level; the interval by bootstrap over samples.

    Each resample gives its own mean of tokens and its own pace: tokens made by seconds spent, times the level.
    (B. Efron, 1979; the percentile method.)
    """
    begin, end, _ = _window(answers)
    tokens, busy = _inside(answers, begin, end)
    level = sum(busy) / (end - begin)

    def estimated(chosen: Sequence[int]) -> float | None:
        made, spent = sum(tokens[i] for i in chosen), sum(busy[i] for i in chosen)
        mean = sum(answers[i].tokens for i in chosen) / len(chosen)
        return mean * spent / (made * level) if made else None

    every = range(len(answers))
    rng = random.Random(seed)
    again = [estimated(rng.choices(every, k=len(answers))) for _ in range(RESAMPLES)]
    return _percentiles(estimated(every) or 0.0, [value for value in again if value is not None])


def end_seconds(answers: Sequence[Timed]) -> float:
    """What the whole takes longer because its last requests end one by one, at less than the full level.

    From the moment when nothing is left to send, the longest goes on for about as long as any takes, the mean for what
    is left of a request met at a random moment, E[w^2] / 2 E[w] (the inspection paradox).
    """
    each = [answer.ended - answer.began for answer in answers]
    return max(0.0, max(each) - sum(w * w for w in each) / max(2 * sum(each), 1e-9))


def mean_of(values: Sequence[float], seed: int) -> Range:
    """The mean; the interval by bootstrap."""
    rng = random.Random(seed)
    again = [sum(rng.choices(values, k=len(values))) / len(values) for _ in range(RESAMPLES)]
    return _percentiles(sum(values) / len(values), again)


def share_of(count: int, of: int) -> Range:
    """A share; the interval is E. B. Wilson's (1927), which holds for few samples and for none or all of them.

    Example: share_of(0, 64) -> (0.0, 0.0, 0.0566)
    """
    share, z2 = count / of, Z95**2
    middle = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = Z95 / (1 + z2 / of) * math.sqrt(share * (1 - share) / of + z2 / (4 * of**2))
    return Range(share, max(0.0, middle - half) if count else 0.0, min(1.0, middle + half) if count < of else 1.0)


def _window(answers: Sequence[Timed]) -> tuple[float, float, float]:
    """(begin, end, seconds left out at the start) of the time at full level."""
    changes = sorted([(a.began, 1) for a in answers] + [(a.ended, -1) for a in answers])
    levels: list[tuple[float, int]] = []
    for time, change in changes:
        levels.append((time, (levels[-1][1] if levels else 0) + change))
    most = max(level for _, level in levels)
    full = [position for position, (_, level) in enumerate(levels) if level >= FULL_SHARE * most]
    begin, end = levels[full[0]][0], levels[full[-1] + 1][0]
    warm = min(WARM_UP_SECONDS, WARM_UP_SHARE * (end - begin))
    return begin + warm, max(end, begin + warm + 1e-6), begin + warm - levels[0][0]


def _inside(answers: Sequence[Timed], begin: float, end: float) -> tuple[list[float], list[float]]:
    """Each answer's tokens and seconds between two times."""
    busy = [max(0.0, min(a.ended, end) - max(a.began, begin)) for a in answers]
    tokens = [a.tokens * b / max(a.ended - a.began, 1e-9) for a, b in zip(answers, busy, strict=True)]
    return tokens, busy


def _percentiles(value: float, again: list[float]) -> Range:
    ordered = sorted(again) or [value]
    last = len(ordered) - 1
    return Range(value, ordered[round(0.025 * last)], ordered[round(0.975 * last)])
