"""Line charts as inline SVG: axes with round ticks, hover values carried as data. Colours come from the page's CSS."""

import json
import math
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.reporting.curves import Points
from pipeline.reporting.texts import Text

WIDTH, HEIGHT = 520, 250
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 14, 34


@dataclass(frozen=True)
class Line:
    """One series: its name in both languages; `style` is a CSS class (c1, c2, ...); `dots` marks each point."""

    name: Text
    points: Points
    style: str
    dots: bool = False


def line_chart(lines: list[Line], label: str, zero: bool = False) -> Markup:
    """A chart of the lines over optimizer steps; `label` describes it for screen readers. Empty lines are left out.

    `zero` lets the value axis begin at 0. Gives "" when no line has points.
    """
    drawn = [line for line in lines if line.points]
    if not drawn:
        return Markup("")
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points if math.isfinite(y)]
    x_axis = _Axis.over(min(xs), max(xs), LEFT, WIDTH - RIGHT, 5)
    y_axis = _Axis.over(0.0 if zero else min(ys, default=0), max(ys, default=1), HEIGHT - BOTTOM, TOP, 4)
    body = [*_grid(x_axis, y_axis), *(_path(line, x_axis, y_axis) for line in drawn)]
    data = [
        {
            "name": line.name._asdict(),
            "style": line.style,
            "points": [[x, y, round(x_axis(x), 1), round(y_axis(y), 1)] for x, y in line.points if math.isfinite(y)],
        }
        for line in drawn
    ]
    return Markup(
        '<svg class="chart" viewBox="0 0 {w} {h}" role="img" aria-label="{label}" data-series="{data}">{body}'
        '<line class="cross" y1="{top}" y2="{bottom}" x1="-9" x2="-9"/></svg>'
    ).format(
        w=WIDTH,
        h=HEIGHT,
        label=label,
        data=json.dumps(data, ensure_ascii=False),
        body=Markup("").join(body),
        top=TOP,
        bottom=HEIGHT - BOTTOM,
    )


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

    @classmethod
    def over(cls, low: float, high: float, start: float, end: float, count: int) -> "_Axis":
        return cls(tuple(nice_ticks(low, high, count)), start, end)

    def __call__(self, value: float) -> float:
        low, high = self.ticks[0], self.ticks[-1]
        return self.start + (self.end - self.start) * (value - low) / (high - low)


def _grid(x_axis: _Axis, y_axis: _Axis) -> list[Markup]:
    out, floor = [], HEIGHT - BOTTOM
    rule = Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>')
    text = Markup('<text class="tick" text-anchor="{}" x="{}" y="{}">{}</text>')
    for tick in y_axis.ticks:
        y = round(y_axis(tick), 1)
        out.append(rule.format("grid", LEFT, WIDTH - RIGHT, y, y))
        out.append(text.format("end", LEFT - 7, y + 4, tick_label(tick)))
    for tick in [tick for tick in x_axis.ticks if tick == int(tick)]:
        x = round(x_axis(tick), 1)
        out.append(rule.format("mark", x, x, floor, floor + 4))
        out.append(text.format("end" if x > WIDTH - RIGHT - 8 else "middle", x, floor + 18, tick_label(tick)))
    return [*out, rule.format("axis", LEFT, WIDTH - RIGHT, floor, floor)]


def _path(line: Line, x_axis: _Axis, y_axis: _Axis) -> Markup:
    """The polyline, broken where a value is not finite, and its dots."""
    runs: list[list[str]] = [[]]
    for x, y in line.points:
        if math.isfinite(y):
            runs[-1].append(f"{x_axis(x):.1f},{y_axis(y):.1f}")
        else:
            runs.append([])
    stroke = Markup('<polyline class="line {}" points="{}"/>')
    shapes = [stroke.format(line.style, " ".join(run)) for run in runs if len(run) > 1]
    if line.dots or len(line.points) == 1:
        spots = [pair.split(",") for run in runs for pair in run]
        dot = Markup('<circle class="dot {}" cx="{}" cy="{}" r="3.4"/>')
        shapes += [dot.format(line.style, x, y) for x, y in spots]
    return Markup("").join(shapes)
