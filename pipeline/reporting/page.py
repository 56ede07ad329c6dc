"""The report as one self-contained HTML page: styles and script inside, nothing fetched.

What models and data say is hostile text: the template escapes everything (autoescape), and only this package's own
markup is marked as safe.
"""

import io
from collections.abc import Callable
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from ruamel.yaml import YAML

from pipeline.reporting import figures
from pipeline.reporting.charts import Line, bar_chart, line_chart
from pipeline.reporting.examples import shortened
from pipeline.reporting.funnel import Segment
from pipeline.reporting.gather import Report, StageFacts
from pipeline.reporting.lengths import Lengths
from pipeline.reporting.scores import bars, by_source, headline, metrics
from pipeline.reporting.texts import TEXTS, asset, coded, text
from pipeline.version import short_commit

REASON_COLOURS = 6
ONE_LINE = 8  # columns of stage cards; more of them take two lines
EVALUATION_COLOURS = 5
MOST_SOURCES = 60  # in a table
FLOWING = ("prepare", "augment", "validate", "train")


def page(report: Report, language: Literal["ko", "en"] = "ko") -> str:
    """The whole page; it opens in `language` and holds both."""
    environment = Environment(
        loader=PackageLoader("pipeline.reporting"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    functions: tuple[Callable[..., Any], ...] = (
        figures.count, figures.percent, figures.duration, figures.size, figures.when, figures.plain_number,
        figures.score, figures.change, figures.tone, short_commit, figure, loss_chart, rate_chart, trained,
        setting_items, token_chart, bar_chart, taught,
    )  # fmt: skip
    environment.filters.update({function.__name__: function for function in functions})
    environment.filters["shortened"] = shortened(report.examples)
    environment.globals.update(
        t=text,
        coded=coded,
        segment_class=segment_classes(report),
        e_class=evaluation_class(report),
        MOST_SOURCES=MOST_SOURCES,
    )
    return environment.get_template("report.html.jinja").render(**_context(report), language=language)


def _context(report: Report) -> dict[str, Any]:
    statuses = [stage.status for stage in report.stages]
    table = metrics(report.evaluations)
    best = headline(table)
    columns = len({stage.level for stage in report.stages})
    trainings = [stage for stage in report.stages if stage.status.kind == "train"]
    rows = [stage.status.counts.ok for stage in trainings if stage.status.counts is not None]
    return {
        "report": report,
        "css": Markup(asset("report.css")),  # both stand on the page as they are
        "javascript": Markup(asset("report.js")),
        "stages_done": sum(status.state == "done" for status in statuses),
        "per_line": columns if columns <= ONE_LINE else -(-columns // 2),
        "flowing": [stage for stage in report.stages if stage.status.kind in FLOWING],
        "trainings": trainings,
        "trained_rows": sum(rows) if rows else None,
        "table": table,
        "best": best,
        "bars": bars(table, report.evaluations),
        "sources": by_source(report.evaluations, best) if best else [],
        "longest": max((status.seconds for status in statuses), default=0.0) or 1.0,
        "peak": max((status.gpu_peak_bytes or status.peak_bytes for status in statuses), default=0),
        "has_gpu": any(status.gpu_peak_bytes for status in statuses),
        "recipe_text": _yaml(report.resolved_recipe),
    }


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


def loss_chart(stage: StageFacts) -> Markup:
    """Training loss, and the loss on held-out rows where it was measured."""
    if stage.curves is None:
        return Markup("")
    lines = [
        Line(TEXTS["loss"], stage.curves.loss, "c1"),
        Line(TEXTS["eval_loss"], stage.curves.eval_loss, "c2", dots=True),
    ]
    return line_chart(lines, f"{stage.status.name}: loss")


def rate_chart(stage: StageFacts) -> Markup:
    """The learning rate."""
    if stage.curves is None:
        return Markup("")
    line = Line(TEXTS["learning_rate"], stage.curves.learning_rate, "c3")
    return line_chart([line], f"{stage.status.name}: learning rate")


def trained(stage: StageFacts) -> list[tuple[Markup, str]]:
    """What a training measured: steps, tokens, speed."""
    speed = stage.curves.tokens_per_second if stage.curves is not None else None
    loss = stage.measured.get("eval_loss")
    counted = [(name, stage.measured.get(name)) for name in ("steps", "rows", "tokens", "trained_tokens")]
    out = [(text(name), figures.count(number)) for name, number in counted if number is not None]
    out += [(text("eval_loss"), figures.plain_number(loss))] if loss is not None else []
    return out + ([(text("tokens_per_second"), figures.count(speed))] if speed else [])


def setting_items(stage: StageFacts) -> list[tuple[str, str]]:
    """A stage's settings, and what its profile decided."""
    return [(key, figures.setting(value)) for key, value in {**stage.settings, **(stage.execution or {})}.items()]


def token_chart(found: Lengths, label: str) -> Markup:
    """Tokens of a row against the max_length of the trainings that read it."""
    marks = [(length, f"max_length {length:,}") for length in sorted({limit.max_length for limit in found.limits})]
    return bar_chart(found.tokens, marks, label) if found.tokens else Markup("")


def taught(found: dict[str, Any]) -> list[tuple[Markup, str]]:
    """A teacher's figures; what was not measured is left out."""
    items = {name: found[name] for name in ("retries", "prompt_tokens", "completion_tokens")}
    items = {"requests": found["outcomes"], "failed_requests": found["failed"], **items}
    if found["answers"]:
        means = {"mean_tokens": "completion_tokens", "mean_characters": "characters"}
        items |= {mean: found[name] / found["answers"] for mean, name in means.items()}
    latency = [
        (Markup("{} {:.0f} %").format(text("latency"), 100 * share), figures.duration(seconds))
        for share, seconds in found["seconds"].items()
    ]
    return [(text(name), figures.count(number)) for name, number in items.items()] + latency


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
