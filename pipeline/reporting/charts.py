"""Charts as inline SVG: a training's curves and a histogram's bars. Colours come from the page's CSS, hover values
are carried as data.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.reporting.curves import Points
from pipeline.reporting.lengths import Histogram
from pipeline.reporting.texts import Text

WIDTH, LEFT, RIGHT, TOP = 520, 56, 14, 14
LINES, BARS = (250, 216), (210, 180)  # height, and where the axis lies
LEAST_DOUBLINGS = 3  # that a histogram's axis shows
MOST_LABELS = 9
RULE = Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>')
LABEL = Markup('<text class="tick" text-anchor="{}" x="{}" y="{}">{}</text>')


@dataclass(frozen=True)
class Line:
    """One series: its name in both languages; `style` is a CSS class (c1, c2, ...); `dots` marks each point."""

    name: Text
    points: Points
    style: str
    dots: bool = False


def line_chart(lines: list[Line], label: str) -> Markup:
    """A chart of the lines over optimizer steps; `label` describes it for screen readers. Empty lines are left out.

    The value axis begins at 0 or below. Gives "" when no line has points.
    """
    drawn = [line for line in lines if line.points]
    if not drawn:
        return Markup("")
    steps = [step for line in drawn for step, _ in line.points]
    values = [value for line in drawn for _, value in line.points if math.isfinite(value)]
    height, floor = LINES
    x = _Axis(tuple(nice_ticks(min(steps), max(steps), 5)), LEFT, WIDTH - RIGHT)
    y = _Axis(tuple(nice_ticks(0.0, max(values, default=1), 4)), floor, TOP)
    marks: list[Markup] = []
    for tick in (tick for tick in x.ticks if tick == int(tick)):
        place = x(tick)
        marks.append(RULE.format("mark", place, place, floor, floor + 4))
        anchor = "end" if place > WIDTH - RIGHT - 8 else "middle"
        marks.append(LABEL.format(anchor, place, floor + 18, tick_label(tick)))
    data = [
        {
            "name": line.name._asdict(),
            "style": line.style,
            "points": [[step, value, x(step), y(value)] for step, value in line.points if math.isfinite(value)],
        }
        for line in drawn
    ]
    cross = Markup('<line class="cross" y1="{}" y2="{}" x1="-9" x2="-9"/>').format(TOP, floor)
    body = [*_grid(y), *marks, _rule("axis", floor), *(_path(line, x, y) for line in drawn), cross]
    series = Markup(' data-series="{}"').format(json.dumps(data, ensure_ascii=False))
    return _svg("chart", height, label, body, series)


def bar_chart(found: Histogram, limits: list[tuple[int, str]], label: str) -> Markup:
    """The histogram, its bars past the largest limit in another colour.

    `limits` are (length, name) pairs, drawn as upright lines; the axis reaches far enough to show them.
    """
    height, floor = BARS
    high = max([found.bins[-1][0] / found.fineness, *(math.log2(limit) + 0.25 for limit, _ in limits)])
    low = min((found.bins[0][0] - 1) / found.fineness, high - LEAST_DOUBLINGS)
    x = _Axis((low, high), LEFT, WIDTH - RIGHT)
    y = _Axis(tuple(nice_ticks(0, max(count for _, count in found.bins), 3)), floor, TOP)
    doublings = list(range(max(0, math.ceil(low)), math.floor(high) + 1))
    body = [*_grid(y), *_bars(found, x, y, max((limit for limit, _ in limits), default=math.inf))]
    for place in doublings[:: -(-len(doublings) // MOST_LABELS)]:
        body.append(LABEL.format("middle", x(place), floor + 18, tick_label(2**place)))
    body.append(_rule("axis", floor))
    for limit, name in limits:
        at = x(math.log2(limit))
        body += [RULE.format("limit", at, at, TOP - 8, floor), LABEL.format("end", at - 6, TOP, name)]
    return _svg("bins", height, label, body)


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers that cover low to high. Example: (0.13, 2.7, 4) -> [0.0, 1.0, 2.0, 3.0]"""
    if not high > low:
        high, low = low + (abs(low) or 1.0) / 2, low - (abs(low) or 1.0) / 2
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def tick_label(value: float) -> str:
    """Short and exact enough to tell ticks apart. Example: 2e-05 -> "2e-5", 1500 -> "1,500", 0.25 -> "0.25" """
    if value == 0:
        return "0"
    if abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:,.10g}"


@dataclass(frozen=True)
class _Axis:
    """Values between the first and the last tick, laid over pixels `start` to `end`."""

    ticks: tuple[float, ...]
    start: float
    end: float

    def __call__(self, value: float) -> float:
        low, high = self.ticks[0], self.ticks[-1]
        return round(self.start + (self.end - self.start) * (value - low) / (high - low), 1)


def _grid(y: _Axis) -> Iterable[Markup]:
    for tick in y.ticks:
        yield _rule("grid", y(tick))
        yield LABEL.format("end", LEFT - 7, y(tick) + 4, tick_label(tick))


def _rule(style: str, y: float) -> Markup:
    return RULE.format(style, LEFT, WIDTH - RIGHT, y, y)


def _svg(style: str, height: int, label: str, body: list[Markup], data: Markup | str = "") -> Markup:
    whole = Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}"{}>{}</svg>')
    return whole.format(style, WIDTH, height, label, data, Markup("").join(body))


def _path(line: Line, x: _Axis, y: _Axis) -> Markup:
    """The polyline, broken where a value is not finite, and its dots."""
    runs: list[list[tuple[str, str]]] = [[]]
    for step, value in line.points:
        if math.isfinite(value):
            runs[-1].append((f"{x(step):.1f}", f"{y(value):.1f}"))
        else:
            runs.append([])
    stroke = Markup('<polyline class="line {}" points="{}"/>')
    shapes = [stroke.format(line.style, " ".join(map(",".join, run))) for run in runs if len(run) > 1]
    if line.dots or len(line.points) == 1:
        dot = Markup('<circle class="dot {}" cx="{}" cy="{}" r="3.4"/>')
        shapes += [dot.format(line.style, *spot) for run in runs for spot in run]
    return Markup("").join(shapes)


def _bars(found: Histogram, x: _Axis, y: _Axis, limit: float) -> Iterable[Markup]:
    bar = Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>')
    for place, count in found.bins:
        left, right = x((place - 1) / found.fineness), x(place / found.fineness)
        low, high = found.edge(place - 1), found.edge(place)
        style = "past" if low >= limit * 0.999 else "c1"
        span = f"{math.floor(low) + 1:,}–{math.floor(high):,}: {count:,}"
        size = round(right - left - 1, 1), round(y.start - y(count), 1)
        yield bar.format(style, left + 0.5, y(count), *size, span)
