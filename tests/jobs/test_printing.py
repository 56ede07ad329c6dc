"""What data and processes say reaches the terminal with its control characters escaped."""

import io
from pathlib import Path

import orjson
import pytest
from rich.console import Console
from typer.testing import CliRunner

from jobs.cli import app
from jobs.live import drawn
from pipeline.store import events
from pipeline.store.objects import Store
from pipeline.store.stage import Stage
from pipeline.store.status import StageStatus
from pipeline.text.thinking import join_thinking
from tests.reporting.chain import new_run
from tests.teacher.runs import prepared_row, run, with_prepared

HOSTILE = "maths\x1b[2J\x07\u202e"


def test_validate_escapes_source_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = prepared_row(1, HOSTILE)
    row["messages"][-1]["content"] = join_thinking("1단계: 1에 7을 더합니다.", "정답: 8")
    store = Store(str(tmp_path))
    lock = with_prepared(store, [orjson.dumps(row)], {"validate": {"kind": "validate", "source": {"stage": "prepare"}}})
    run(Stage(store, lock, "validate"))
    printed = capsys.readouterr().out
    assert r"maths\x1b[2J\x07\u202e" in printed and not {"\x1b", "\x07", "\u202e"} & set(printed)


def test_what_a_process_said_last_is_escaped_by_why_and_status(tmp_path: Path) -> None:
    store, lock = new_run(tmp_path)
    events.say(store, lock.run_id, "prepare", "started", "w")
    events.say(store, lock.run_id, "prepare", "ended", "w", 2, f"bad [row] {HOSTILE}")
    for command in ("why", "status"):
        printed = CliRunner().invoke(app, [command, "--store", store.url], env={"COLUMNS": "200"}).output
        assert r"bad [row] maths\x1b[2J\x07\u202e" in printed and not {"\x1b", "\x07", "\u202e"} & set(printed)


def test_a_table_shows_brackets_as_they_are() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(drawn("run [x]", [StageStatus("a", "prepare", "f", "failed", message="[red]gone[/]")]))
    assert "[red]gone[/]" in console.export_text()
