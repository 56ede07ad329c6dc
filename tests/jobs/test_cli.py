"""The command line as a person meets it: help without weight, and one message for each likely mistake."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from pipeline.errors import UserError
from tests.conftest import use_s3
from tests.servers.s3 import S3Server

COMMANDS = (
    "run stage recipes render schema plan status logs why report lineage chat promote engine export fetch gc doctor"
    " estimate peek"
)


def refused(*words: str) -> str:
    """The one message that a command ends with; its exit code must be 2."""
    result = CliRunner().invoke(app, list(words))
    if isinstance(result.exception, UserError):
        return str(result.exception)
    assert result.exit_code == 2, result.output
    return result.output


def test_help_lists_every_command_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from jobs.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 's3fs', 'aiohttp', 'ruamel.yaml', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for command in COMMANDS.split():
        assert f" {command} " in result.stdout


def test_render_and_schema_are_machine_readable() -> None:
    rendered = json.loads(CliRunner().invoke(app, ["render", "korean-vla", "--json"]).stdout)
    assert rendered["stages"]["merge1"]["needs"] == ["phase1"]
    schema = json.loads(CliRunner().invoke(app, ["schema"]).stdout)
    assert schema["additionalProperties"] is False


def test_plan_says_steps_and_memory_before_anything_is_there(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["plan", "korean-vla", "--store", str(tmp_path), "--json"])
    stages = {stage["name"]: stage for stage in json.loads(result.stdout)["stages"]}
    assert stages["phase1"]["steps"] == 256_000 * 2 // 16
    assert stages["phase1"]["fits"] is True and 20 < stages["phase1"]["memory_gib"] < 40
    assert stages["phase2"]["steps"] == -(-565_140 // 16) * 3
    assert "non-commercial" in json.dumps(stages["augment"]["notes"]) or "commercial" in json.dumps(
        stages["augment"]["notes"]
    )


def test_wrong_model_ids_are_named_with_the_right_ones(tmp_path: Path) -> None:
    wrong = "augment.teacher.model=LGAI-EXAONE/EXAONE-4.0-1.2B-Instruct"
    said = refused("plan", "korean-vla", "--store", str(tmp_path), "--set", wrong)
    assert "EXAONE-4.0-1.2B" in said and "EXAONE-4.0-32B" in said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "korean-vl"], "did you mean 'korean-vla'"),
        (["run", "demo", "--set", "phase1.lr=1"], "unknown key 'lr'"),
        (["run", "demo", "--only", "phase9"], "no stage 'phase9'"),
        (["run", "demo", "--input", "raw"], "wants NAME=VALUE"),
        (["status", "nothing"], "no run 'nothing'"),
        (["stage", "phase1"], "neither --run nor --recipe"),
        (["run", "demo", "--store", "s4://x"], "unknown store URL 's4://x'"),
        (["run", "demo", "--profile", "h1000"], "unknown profile 'h1000'; did you mean 'h100'"),
    ],
)
def test_a_mistake_is_one_message_to_act_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("raw", "worked-examples", "base-student", "base-teacher"):
        folder = tmp_path / ".hanforge" / "store" / "inputs" / name
        folder.mkdir(parents=True)
        (folder / "a.jsonl").write_text("{}\n")
    assert expected in refused(*words)


def test_a_missing_input_names_the_place_and_the_option(tmp_path: Path) -> None:
    said = refused("run", "demo", "--store", str(tmp_path))
    assert "input 'raw': nothing at" in said and "--input NAME=URL" in said


@pytest.mark.parametrize(
    ("bucket", "key", "expected"),
    [("no-such-bucket", "testing", "does not exist"), (None, "refused", "refused the credentials")],
)
def test_a_store_that_refuses_says_which_way(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, bucket: str | None, key: str, expected: str
) -> None:
    use_s3(monkeypatch, s3.environment(access_key=key))
    assert expected in refused("run", "demo", "--store", f"s3://{bucket or s3.new_bucket()}/store")


def test_plan_refuses_what_does_not_fit_with_the_arithmetic(tmp_path: Path) -> None:
    words = ["plan", "korean-vla", "--store", str(tmp_path), "--profile", "phase1=t4-pair", "--json"]
    done = subprocess.run([sys.executable, "-m", "jobs", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and json.loads(done.stdout)["recipe"] == "korean-vla"
    for part in ("'phase1' takes about 2", "'t4-pair' has 14.7 GiB", "8.77 B parameters", "r=16", "activations"):
        assert part in done.stderr
