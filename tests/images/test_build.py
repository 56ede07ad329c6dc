"""The table of `make images`, and what a container of `make run-stage` is given."""

import sys
from pathlib import Path

import pytest

from images import build, engine, run

HISTORY = """\
0\tCMD ["--help"]
4200000\tRUN /bin/sh -c export VIRTUAL_ENV=/opt/hanforge && /mnt/uv pip install --offline /media/*.whl # buildkit
290000000\tRUN /bin/sh -c /mnt/uv pip install --requirements /media/train.txt # buildkit
650000000\tRUN /bin/sh -c /mnt/uv pip install --requirements /media/common.txt # buildkit
4800000000\tRUN /bin/sh -c /mnt/uv pip install --requirements /media/cuda.txt # buildkit
400000000\tRUN /bin/sh -c apt-get update && apt-get install -y gcc g++ # buildkit
123000000\t
"""


def client_that_says(folder: Path, answers: str) -> str:
    """A docker client that prints `answers` whatever it is asked."""
    path = folder / "docker"
    (folder / "answers").write_text(answers)
    path.write_text(f"#!{sys.executable}\nprint(open({str(folder / 'answers')!r}).read(), end='')\n")
    path.chmod(0o755)
    return str(path)


def test_layers_are_named_by_what_they_hold(tmp_path: Path) -> None:
    docker = client_that_says(tmp_path, HISTORY)
    sizes = {group: size for group, size in build.layers(docker, "any") if size}
    assert sizes == {
        "hanforge": 4_200_000,
        "packages of its own": 290_000_000,
        "packages that train and serve share": 650_000_000,
        "torch and CUDA": 4_800_000_000,
        "compiler and libraries": 400_000_000,
        "base": 123_000_000,
    }
    lines = build.table(docker, {"train": "any"}).splitlines()
    assert lines[1].split() == ["base", "123"]
    assert lines[-1].split() == ["over", "its", "base", "6,144"]


def test_a_machine_without_an_engine_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER", str(tmp_path / "docker"))
    with pytest.raises(SystemExit) as ended:
        engine.client()
    assert ended.value.code == 2
    assert "not installed" in capsys.readouterr().err


def test_containers_get_the_store_at_its_own_path_and_values_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCKER", client_that_says(tmp_path, "20.10.24"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("HANFORGE_STORE", "file:///elsewhere")
    monkeypatch.setenv("HANFORGE_CACHE", str(tmp_path / "cache"))
    inputs = tmp_path / "rows"
    inputs.mkdir()
    passed_on = ["--set", "a.b=1", "--input", f"raw={inputs}", "--input", "other=s3://bucket/folder"]
    words = run.Containers("store", passed_on).command("data", "plan", "demo")
    store = tmp_path / "store"
    assert store.is_dir() and f"--volume={store}:{store}:rw" in words
    assert f"--volume={tmp_path}:{tmp_path}:ro" in words and f"--volume={inputs}:{inputs}:ro" in words
    assert "--env=AWS_SECRET_ACCESS_KEY" in words and not any("hush" in word for word in words)
    assert not any("HANFORGE_STORE" in word for word in words)
    assert words[-3:] == ["hanforge-data:latest", "plan", "demo"]


def test_a_folder_that_is_read_and_written_is_mounted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCKER", client_that_says(tmp_path, "20.10.24"))
    words = run.Containers(".", ["--input", f"raw={tmp_path}"]).command("data")
    assert [word for word in words if word.startswith(f"--volume={tmp_path}:")] == [
        f"--volume={tmp_path}:{tmp_path}:rw"
    ]
