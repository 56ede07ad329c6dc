"""The report as one self-contained HTML page: styles and script inside, nothing fetched.

What models and data say is hostile text: the template escapes everything (autoescape), and only this package's own
markup is marked as safe.
"""

import io
from collections.abc import Callable
from importlib import resources
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from ruamel.yaml import YAML

from pipeline.reporting import figures
from pipeline.reporting.funnel import Segment
from pipeline.reporting.gather import Report, StageFacts
from pipeline.reporting.histogram import bar_chart
from pipeline.reporting.lengths import Lengths
from pipeline.reporting.pairs import Prediction
from pipeline.reporting.room import shortened
from pipeline.reporting.scores import bars, by_source, headline, metrics
from pipeline.reporting.svg import Line, line_chart
from pipeline.reporting.teaching import Teaching
from pipeline.reporting.texts import TEXTS, coded, text
from pipeline.version import short_commit

REASON_COLOURS = 6
ONE_LINE = 8  # columns of stage cards; more of them take two lines
EVALUATION_COLOURS = 5
MOST_SOURCES = 60  # in a table
FLOWING = ("prepare", "augment", "validate", "train")
FILTERS = (
    "count",
    "percent",
    "duration",
    "size",
    "when",
    "plain_number",
    "score",
    "change",
    "tone",
    "last_value",
    "top_value",
)


def page(report: Report, language: Literal["ko", "en"] = "ko") -> str:
    """The whole page; it opens in `language` and holds both."""
    environment = Environment(
        loader=PackageLoader("pipeline.reporting"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update({name: getattr(figures, name) for name in FILTERS})
    environment.filters.update(
        figure=figure,
        checks=checks,
        short_commit=short_commit,
        loss_chart=loss_chart,
        rate_chart=rate_chart,
        trained=trained,
        setting_items=setting_items,
        token_chart=token_chart,
        character_chart=character_chart,
        taught=taught,
        shortened=shortened(report),
    )
    environment.globals.update(
        t=text,
        coded=coded,
        segment_class=segment_classes(report),
        e_class=evaluation_class(report),
        MOST_SOURCES=MOST_SOURCES,
    )
    return environment.get_template("report.html.jinja").render(**_context(report), language=language)


def _context(report: Report) -> dict[str, Any]:
    stages = report.stages
    table = metrics(report.evaluations)
    best = headline(table)
    columns = _columns(stages)
    trainings = [stage for stage in stages if stage.status.kind == "train"]
    rows = [stage.status.counts.ok for stage in trainings if stage.status.counts is not None]
    return {
        "report": report,
        "css": _asset("report.css"),
        "javascript": _asset("report.js"),
        "stages_done": sum(stage.status.state == "done" for stage in stages),
        "columns": columns,
        "per_line": len(columns) if len(columns) <= ONE_LINE else -(-len(columns) // 2),
        "flowing": [stage for stage in stages if stage.status.kind in FLOWING],
        "trainings": trainings,
        "trained_rows": sum(rows) if rows else None,
        "table": table,
        "best": best,
        "bars": bars(table, report.evaluations),
        "sources": by_source(report.evaluations, best) if best else [],
        "wrong": _by_stage(report.wrong),
        "longest": max((stage.status.seconds for stage in stages), default=0.0) or 1.0,
        "peak": max((stage.status.gpu_peak_bytes or stage.status.peak_bytes for stage in stages), default=0),
        "has_gpu": any(stage.status.gpu_peak_bytes for stage in stages),
        "recipe_text": _yaml(report.resolved_recipe),
    }


def _asset(name: str) -> Markup:
    """A style sheet or script of this package, which the page carries as it is."""
    return Markup(resources.files("pipeline.reporting").joinpath("templates", name).read_text("utf-8"))


def _columns(stages: list[StageFacts]) -> list[list[StageFacts]]:
    columns: dict[int, list[StageFacts]] = {}
    for stage in stages:
        columns.setdefault(stage.level, []).append(stage)
    return [columns[level] for level in sorted(columns)]


def _by_stage(predictions: list[Prediction]) -> list[tuple[str, list[Prediction]]]:
    names = dict.fromkeys(prediction.stage for prediction in predictions)
    return [(name, [one for one in predictions if one.stage == name]) for name in names]


def _yaml(values: dict[str, Any]) -> str:
    out = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 110
    yaml.dump(values, out)
    return out.getvalue()


def figure(stage: StageFacts) -> Markup:
    """The one figure of a stage's card: rows, loss, progress; time after it. What is not known is left out."""
    status = stage.status
    parts: list[Markup | str] = []
    if stage.flow is not None:
        parts.append(Markup("{} {}").format(figures.count(stage.flow.whole.kept), text("rows")))
    elif status.state == "running" and status.progress.get("done") is not None:
        total = status.progress.get("total")
        parts.append(f"{status.progress['done']:,}" + (f" / {total:,}" if total else ""))
    if stage.curves is not None and stage.curves.loss:
        parts.append(Markup("{} {}").format(text("loss"), figures.plain_number(stage.curves.loss[-1][1])))
    if status.seconds:
        parts.append(figures.duration(status.seconds))
    return Markup("").join(Markup("<span>{}</span>").format(part) for part in parts)


def checks(stage: StageFacts) -> list[tuple[str, int, int]]:
    """What a validate stage measured: (name, rows, rows checked)."""
    total = stage.measured.get("checked") if stage.status.kind == "validate" else None
    return [(name, number, total) for name, number in stage.measured["counts"].items()] if total else []


def loss_chart(stage: StageFacts) -> Markup:
    """Training loss, and the loss on held-out rows where it was measured."""
    if stage.curves is None:
        return Markup("")
    lines = [
        Line(TEXTS["loss"], stage.curves.loss, "c1"),
        Line(TEXTS["eval_loss"], stage.curves.eval_loss, "c2", dots=True),
    ]
    return line_chart(lines, f"{stage.status.name}: loss", zero=True)


def rate_chart(stage: StageFacts) -> Markup:
    """The learning rate."""
    if stage.curves is None:
        return Markup("")
    line = Line(TEXTS["learning_rate"], stage.curves.learning_rate, "c3")
    return line_chart([line], f"{stage.status.name}: learning rate", zero=True)


def trained(stage: StageFacts) -> list[tuple[Markup, str]]:
    """What a training measured: steps, tokens, speed."""
    out = [
        (text(name), figures.count(stage.measured[name]))
        for name in ("steps", "rows", "tokens", "trained_tokens")
        if name in stage.measured
    ]
    if stage.measured.get("eval_loss") is not None:
        out.append((text("eval_loss"), figures.plain_number(stage.measured["eval_loss"])))
    if stage.curves is not None and stage.curves.tokens_per_second:
        out.append((text("tokens_per_second"), figures.count(stage.curves.tokens_per_second)))
    return out


def setting_items(stage: StageFacts) -> list[tuple[str, str]]:
    """A stage's settings, and what its profile decided."""
    execution = stage.execution or {}
    return [(key, figures.setting(value)) for key, value in {**stage.settings, **execution}.items()]


def token_chart(found: Lengths, stage: str) -> Markup:
    """Tokens of a row against the max_length of the trainings that read it."""
    limits = {limit.max_length: limit for limit in found.limits}
    marks = [(length, f"max_length {length:,}") for length in sorted(limits)]
    return bar_chart(found.tokens, marks, f"{stage}: tokens") if found.tokens else Markup("")


def character_chart(found: Lengths, stage: str) -> Markup:
    """Characters of a row."""
    return bar_chart(found.characters, [], f"{stage}: characters")


def taught(found: Teaching) -> list[tuple[Markup, str]]:
    """A teacher's figures; what was not measured is left out."""
    items: list[tuple[str, float]] = [
        ("requests", found.outcomes), ("failed_requests", found.failed), ("retries", found.retries),
        ("prompt_tokens", found.prompt_tokens), ("completion_tokens", found.completion_tokens),
    ]  # fmt: skip
    if found.answers:
        items += [(f"mean_{name}", total / found.answers) for name, total in
                  (("tokens", found.completion_tokens), ("characters", found.characters))]  # fmt: skip
    latency = [
        (Markup("{} {:.0f} %").format(text("latency"), 100 * share), figures.duration(seconds))
        for share, seconds in found.seconds
    ]
    return [(text(name), figures.count(number)) for name, number in items] + latency


def segment_classes(report: Report) -> Callable[[Segment], str]:
    """From a segment to its colour: its state's; a reason of rejection has one of six, the same in every stage."""
    rows: dict[str, int] = {}
    for stage in report.stages:
        for segment in stage.flow.whole.segments if stage.flow else ():
            if segment.state == "rejected":
                rows[segment.reason] = rows.get(segment.reason, 0) + segment.rows
    place = {reason: number for number, reason in enumerate(sorted(rows, key=lambda reason: (-rows[reason], reason)))}

    def colour(segment: Segment) -> str:
        if segment.state != "rejected":
            return f"s-{segment.state}"
        return f"s-r{place[segment.reason] % REASON_COLOURS + 1}"

    return colour


def evaluation_class(report: Report) -> Callable[[int], int]:
    """From an evaluation's place to its colour: the last is always the strongest of as many as there are."""
    shift = {1: 2, 2: 1}.get(len(report.evaluations), 0)
    return lambda place: (place + shift) % EVALUATION_COLOURS + 1
