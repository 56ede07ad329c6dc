"""The commands over a real store: what they print, write and refuse."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from pipeline.errors import UserError
from tests.reporting.chain import build


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build(tmp_path_factory.mktemp("commands"), "phase1")[0].url


def run(url: str, *words: str) -> str:
    done = CliRunner().invoke(app, [*words, "--store", url], catch_exceptions=False, env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    return done.output


def test_report_writes_a_page_and_prints_its_twin(url: str, tmp_path: Path) -> None:
    out = tmp_path / "new" / "page.html"
    assert run(url, "report", "--out", str(out), "--language", "en").strip() == str(out)
    assert '<html lang="en"' in out.read_text("utf-8")
    assert json.loads(run(url, "report", "latest@tiny-vla", "--json"))["stages"]["phase1"]["state"] == "done"


def test_samples_are_shown_and_printed_as_json_lines(url: str) -> None:
    shown = run(url, "show-sample", "latest:prepare", "--output", "rejects", "-n", "2")
    assert "2 of 11 rows" in shown and "2 of 2" in shown
    rows = [json.loads(line) for line in run(url, "show-sample", "latest:validate", "-n", "3", "--json").splitlines()]
    assert len(rows) == 3 and all("teacher" in row for row in rows)
    with pytest.raises(UserError, match="is not RUN:STAGE"):
        run(url, "show-sample", "prepare")


def test_lineage_why_and_logs_speak(url: str) -> None:
    assert json.loads(run(url, "lineage", "latest:phase1", "--json", "--rows", "1"))["examples"][0]["raw"]
    assert "60 rows of prepare" in run(url, "lineage", "latest:phase1")
    assert "merge1: all it needs is done" in run(url, "why")
    assert "== 000-prepare" in run(url, "logs", "prepare")
