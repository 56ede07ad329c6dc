"""The pure parts: charts, intervals, curves, figures, settings, terminal samples."""

import io
import json
import math

from rich.cells import cell_len
from rich.console import Console

from pipeline.recipe.kinds import TrainSettings
from pipeline.reporting.charts import Line, line_chart, nice_ticks, tick_label
from pipeline.reporting.curves import curves
from pipeline.reporting.figures import change, duration, percent, size, tone
from pipeline.reporting.rows import split_origin
from pipeline.reporting.samples import printable, sample_panel
from pipeline.reporting.scores import Evaluation, Metric, Value, bars, headline, metrics
from pipeline.reporting.settings_shown import settings_shown
from pipeline.reporting.texts import TEXTS, Text, coded
from pipeline.scoring.metrics import MEANS, RATES
from pipeline.text.examine import REASONS
from pipeline.version import short_commit


def test_ticks_are_round_and_cover_the_values() -> None:
    assert nice_ticks(0.13, 2.7, 4) == [0.0, 1.0, 2.0, 3.0]
    assert nice_ticks(0, 2e-5, 4) == [0.0, 5e-6, 1e-5, 1.5e-5, 2e-5]
    assert nice_ticks(5, 5, 4)[0] <= 5 <= nice_ticks(5, 5, 4)[-1]
    assert [tick_label(value) for value in (0, 1500, 0.25, 5e-6)] == ["0", "1,500", "0.25", "5e-6"]


def test_a_chart_carries_its_values_and_breaks_where_a_loss_is_no_number() -> None:
    points = ((1, 2.0), (2, math.nan), (3, 1.0), (4, 0.5))
    chart = str(line_chart([Line(Text("손실", "loss"), points, "c1")], 'a "label" <b>'))
    assert 'aria-label="a &#34;label&#34; &lt;b&gt;"' in chart and "nan" not in chart.lower()
    data = json.loads(chart.split('data-series="')[1].split('"')[0].replace("&#34;", '"'))
    assert data[0]["name"] == {"ko": "손실", "en": "loss"}
    assert [point[:2] for point in data[0]["points"]] == [[1, 2.0], [3, 1.0], [4, 0.5]]
    assert chart.count("<polyline") == 1
    assert str(line_chart([Line(Text("a", "a"), (), "c1")], "empty")) == ""


def test_a_fall_of_a_bad_thing_is_good() -> None:
    chinese = Metric("chinese", "data", "on", (Value(0.2), None, Value(0.05)))
    exact = Metric("exact", "data", "on", (Value(0.2), None, Value(0.95)))
    assert (tone(chinese), tone(exact), change(exact.change or 0, exact)) == ("up", "up", "+75.0")
    assert tone(Metric("exact", "data", "on", (Value(0.2), None))) == ""


def test_a_step_trained_twice_counts_once_and_long_series_are_thinned() -> None:
    records = [{"step": step, "loss": 1.0, "tokens_per_second": 10.0} for step in range(1, 2001)]
    found = curves([*records, {"step": 7, "loss": 0.5}, {"unit": "x", "rows": 3}])
    assert found.loss[0] == (1, 1.0) and found.loss[-1] == (2000, 1.0) and len(found.loss) <= 602
    assert curves([{"step": 7, "loss": 1.0}, {"step": 7, "loss": 0.5}]).loss == ((7, 0.5),)
    assert found.tokens_per_second == 10.0 and found.eval_loss == ()


def test_figures_are_written_for_people() -> None:
    assert [duration(value) for value in (42.31, 95, 3725)] == ["42.3 s", "1:35", "1:02:05"]
    assert [size(value) for value in (5, 1536, 26 << 30, 3 << 41)] == ["5 B", "1.5 KiB", "26.0 GiB", "6.0 TiB"]
    assert [percent(value) for value in (0.934, 0.0004, 0)] == ["93.4 %", "0.04 %", "0.0 %"]
    assert short_commit("4439f66b015d4d776dfbeb461cba58b19fd972f9-dirty") == "4439f66b015d-dirty"
    assert [split_origin(value) for value in ("a/b.jsonl:17", "odd", None)] == [("a/b.jsonl", 17), ("odd", 0), ("", 0)]


def test_training_settings_show_the_well_known_ones_and_what_is_not_a_default() -> None:
    settings = TrainSettings.model_validate(
        {"base": "./base", "data": {"stage": "prepare"}, "lora": {"r": 32, "use_dora": True}, "save_steps": 3}
    )
    shown = settings_shown(settings)
    assert shown["learning_rate"] == 2e-5 and shown["lora.r"] == 32 and shown["lora.use_dora"] is True
    assert shown["lora.lora_alpha"] == 32 and not {"base", "data", "save_steps", "kind"} & set(shown)


def test_every_reason_and_metric_has_a_phrase_in_both_languages() -> None:
    names = [f"reason_{reason}" for reason in REASONS if reason]
    names += [f"metric_{name}" for name in RATES] + [f"metric_mean_{name}" for name in MEANS]
    assert [name for name in names if name not in TEXTS] == []
    assert all(text.ko and text.en for text in TEXTS.values())
    assert str(coded("reason", "<odd_code>")) == "<span>&lt;odd code&gt;</span>"


def test_a_sample_fits_the_terminal_in_korean_and_sets_reasoning_apart() -> None:
    content = "<think>\n1단계: 로봇이 멈춥니다. " + "가나다라 " * 30 + "\n</think>\n\n정답: 정지"
    row = {
        "messages": [{"role": "user", "content": "무엇?"}, {"role": "assistant", "content": content}],
        "source": "로봇",
    }
    out = io.StringIO()
    Console(file=out, width=60, color_system=None).print(sample_panel(row, 1, 2))
    lines = out.getvalue().splitlines()
    assert {cell_len(line) for line in lines} == {60}
    assert "<think>" not in out.getvalue() and any(line.startswith("│    1단계:") for line in lines)


def test_a_hostile_row_cannot_steer_the_terminal() -> None:
    row = {
        "reason": "chinese",
        "detail": "[bold]x[/]\x1b[2J",
        "line": "a\x1b]0;title\x07b\u202e",
        "origin": "f.jsonl:1",
    }
    out = io.StringIO()
    Console(file=out, width=60, color_system=None).print(sample_panel(row, 1, 1))
    assert not {"\x1b", "\x07", "\u202e"} & set(out.getvalue()) and "[bold]x[/]" in out.getvalue()
    assert printable("a\tb\n") == "a\tb\n"


def test_a_long_text_is_cut_unless_asked_for() -> None:
    row = {"messages": [{"role": "user", "content": "가" * 500}]}
    short, full = io.StringIO(), io.StringIO()
    Console(file=short, width=80).print(sample_panel(row, 1, 1))
    Console(file=full, width=80).print(sample_panel(row, 1, 1, full=True))
    assert "100 more characters" in short.getvalue() and full.getvalue().count("가") == 500


def evaluation(stage: str, scores: dict[str, float], done: bool = True) -> Evaluation:
    rows = {name.rpartition(".")[0]: 200 for name in scores}
    return Evaluation(stage, stage, done, scores, rows, {}, {})


def test_before_and_after_stand_side_by_side_although_each_was_asked_in_its_own_mode() -> None:
    asked = [
        evaluation("base", {"data.off.exact": 0.0}),
        evaluation("phase1", {"data.off.exact": 0.4}),
        evaluation("phase2", {"data.on.exact": 0.95}),
    ]
    best = headline(metrics(asked))
    assert best is not None and [cell.value.value for cell in best.cells if cell.value] == [0.0, 0.4, 0.95]
    assert best.modes == ["off", "off", "on"]
    ((metric, groups),) = bars(metrics(asked), asked)
    assert metric.name == "exact" and [name for name, _ in groups] == [""]
    assert [(cell.place, cell.mode) for cell in groups[0][1]] == [(0, "off"), (1, "off"), (2, "on")]


def test_modes_are_grouped_when_both_were_asked_and_what_has_not_run_is_shown() -> None:
    asked = [evaluation("base", {"data.off.exact": 0.1, "data.on.exact": 0.2}), evaluation("phase1", {}, done=False)]
    ((_, groups),) = bars(metrics(asked), asked)
    assert [(mode, [cell.value is None for cell in cells]) for mode, cells in groups] == [
        ("off", [False, True]),
        ("on", [False, True]),
    ]
    best = headline(metrics(asked))
    assert best is not None and best.modes == ["on"]
    assert headline([]) is None and bars([], asked) == []
