"""Histograms of lengths over a doubling axis: bins, quantiles from the values themselves, and the drawing as SVG."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from pipeline.reporting.svg import LEFT, RIGHT, TOP, WIDTH, nice_ticks, tick_label

HEIGHT, BOTTOM = 210, 30
MOST_BINS = 28
LEAST_DOUBLINGS = 3  # that the axis shows
MOST_LABELS = 9


@dataclass(frozen=True)
class Histogram:
    """Numbers of values by bin: of `fineness` n, bin k holds 2^((k-1)/n) < value <= 2^(k/n), the lowest 0 and 1."""

    bins: tuple[tuple[int, int], ...]
    fineness: int
    median: int
    percentile_95: int
    largest: int

    def edge(self, place: int) -> float:
        """The upper edge of a bin. Example: of fineness 2, 6 -> 8.0"""
        return float(2 ** (place / self.fineness))

    def plain(self) -> dict[str, Any]:
        """As JSON values; bins by their upper edges."""
        edges = {f"{self.edge(place):.6g}": count for place, count in self.bins}
        return {"up_to": edges, "median": self.median, "percentile_95": self.percentile_95, "largest": self.largest}


def histogram(values: list[int]) -> Histogram | None:
    """The histogram of some lengths, in bins as fine as at most 28 of them allow; None of none."""
    if not values:
        return None
    places = [math.log2(max(1, value)) for value in values]
    span = max(places) - min(places)
    fineness = next((fine for fine in (8, 4) if span * fine <= MOST_BINS), 2)
    found = Counter(math.ceil(place * fineness - 1e-9) for place in places)
    bins = tuple((place, found[place]) for place in range(min(found), max(found) + 1))
    return Histogram(bins, fineness, quantile(values, 0.5), quantile(values, 0.95), max(values))


def quantile(values: list[int], share: float) -> int:
    """The least value that `share` of the values do not exceed. Example: ([1, 2, 3, 4], 0.5) -> 2"""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def bar_chart(found: Histogram, limits: list[tuple[int, str]], label: str) -> Markup:
    """The histogram as SVG, its bars past the largest limit in another colour.

    `limits` are (length, name) pairs, drawn as upright lines; the axis reaches far enough to show them.
    """
    axes = _Axes.around(found, [limit for limit, _ in limits])
    rule = Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>')
    text = Markup('<text class="tick" text-anchor="{}" x="{}" y="{}">{}</text>')
    body = [rule.format("grid", LEFT, WIDTH - RIGHT, axes.y(tick), axes.y(tick)) for tick in axes.ticks]
    body += [text.format("end", LEFT - 7, axes.y(tick) + 4, tick_label(tick)) for tick in axes.ticks]
    body += _bars(found, axes, max((limit for limit, _ in limits), default=math.inf))
    body += [text.format("middle", axes.x(place), axes.floor + 18, tick_label(2**place)) for place in axes.doublings()]
    body.append(rule.format("axis", LEFT, WIDTH - RIGHT, axes.floor, axes.floor))
    for limit, name in limits:
        x = axes.x(math.log2(limit))
        body.append(rule.format("limit", x, x, TOP - 8, axes.floor))
        body.append(text.format("end", x - 6, TOP, name))
    return Markup('<svg class="bins" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, label, Markup("").join(body)
    )


@dataclass(frozen=True)
class _Axes:
    """Doublings `first` to `last` over the width, counts from 0 to the last tick over the height."""

    first: float
    last: float
    ticks: tuple[float, ...]
    floor: int = HEIGHT - BOTTOM

    @classmethod
    def around(cls, found: Histogram, limits: list[int]) -> "_Axes":
        low = (found.bins[0][0] - 1) / found.fineness
        high = max([found.bins[-1][0] / found.fineness, *(math.log2(limit) + 0.25 for limit in limits)])
        ticks = nice_ticks(0, max(count for _, count in found.bins), 3)
        return cls(min(low, high - LEAST_DOUBLINGS), high, tuple(ticks))

    def x(self, doubling: float) -> float:
        return round(LEFT + (doubling - self.first) / (self.last - self.first) * (WIDTH - LEFT - RIGHT), 1)

    def y(self, count: float) -> float:
        return round(self.floor - (self.floor - TOP) * count / self.ticks[-1], 1)

    def doublings(self) -> list[int]:
        """Whole doublings on the axis, at most MOST_LABELS of them."""
        whole = list(range(max(0, math.ceil(self.first)), math.floor(self.last) + 1))
        return whole[:: -(-len(whole) // MOST_LABELS)]


def _bars(found: Histogram, axes: _Axes, limit: float) -> list[Markup]:
    bar = Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>')
    out: list[Markup] = []
    for place, count in found.bins:
        left, right = axes.x((place - 1) / found.fineness), axes.x(place / found.fineness)
        low, high = found.edge(place - 1), found.edge(place)
        style = "past" if low >= limit * 0.999 else "c1"
        span = f"{math.floor(low) + 1:,}–{math.floor(high):,}: {count:,}"
        height = round(axes.floor - axes.y(count), 1)
        out.append(bar.format(style, left + 0.5, axes.y(count), round(right - left - 1, 1), height, span))
    return out
