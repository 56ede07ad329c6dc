"""Two processes that train one model, over gloo on the CPU: what they learn, and that no signal changes a byte."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from pipeline.errors import UserError
from pipeline.store.events import events
from pipeline.store.progress import read_metrics
from pipeline.store.stage import Stage
from pipeline.training.checkpoints import StoredCheckpoints
from pipeline.training.launch import address_of_first, ranks
from pipeline.training.train import run
from tests.training.conftest import MakeStage


def start(stage: Stage, words: Path, node: int = 0, nodes: int = 1, **environment: str) -> "subprocess.Popen[bytes]":
    """`hanforge stage phase1` in a process of its own, which starts those that train on its node."""
    words.touch()
    command = [sys.executable, "-m", "jobs", "stage", "phase1", "--store", stage.store.url, "--run", stage.run_id]
    command += ["--index", str(node), "--of", str(nodes)]
    given = {"HANFORGE_TERMINATION_LOG": str(words), "OMP_NUM_THREADS": "1", **environment}
    with words.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, env={**os.environ, **given}, stdout=log, stderr=log)


def trained(stage: Stage, words: Path) -> dict[str, torch.Tensor]:
    """The adapter after one undisturbed run."""
    assert start(stage, words).wait(300) == 0, words.with_suffix(".log").read_text()
    return adapter(stage)


def adapter(stage: Stage) -> dict[str, torch.Tensor]:
    manifest = stage.directory.manifest()
    assert manifest is not None
    (part,) = [part for part in manifest.outputs["adapter"] if part.name == "adapter_model.safetensors"]
    return load_file(Path(stage.store.path(part.key)))


def losses(stage: Stage) -> list[float]:
    stage.metrics.flush()
    return [record["loss"] for record in read_metrics(stage.directory) if "loss" in record]


def test_two_processes_learn_what_one_learns(make_stage: MakeStage, qwen3_base: Path, tmp_path: Path) -> None:
    settings = {"lora": {"r": 4, "lora_dropout": 0.0}, "eval_data": {"input": "heldout"}, "logging_steps": 1}
    alone = make_stage(qwen3_base, store=tmp_path / "alone", **settings)
    run(alone)
    together = make_stage(qwen3_base, store=tmp_path / "together", processes=2, **settings)
    learned = trained(together, tmp_path / "words")
    assert (tmp_path / "words").read_text() == "phase1: done"
    assert losses(together) == pytest.approx(losses(alone), rel=1e-4) and len(losses(alone)) == 6
    for name, tensor in adapter(alone).items():
        assert torch.allclose(learned[name], tensor, atol=2e-4), name
    one, other = alone.directory.manifest(), together.directory.manifest()
    assert one is not None and other is not None and one.counts == other.counts
    assert one.measurements["eval_loss"] == pytest.approx(other.measurements["eval_loss"], rel=1e-3)
    tokens = [
        [record["tokens"] for record in read_metrics(stage.directory) if "loss" in record][-1]
        for stage in (alone, together)
    ]
    assert tokens[0] == tokens[1]
    assert {event.what for event in events(together.store, together.run_id)} == {"started", "ended"}


def test_killed_and_stopped_the_gang_goes_on_to_the_same_bytes(
    make_stage: MakeStage, qwen3_base: Path, tmp_path: Path
) -> None:
    settings = {"max_steps": 8, "save_steps": 1, "processes": 2}
    whole = trained(make_stage(qwen3_base, store=tmp_path / "undisturbed", **settings), tmp_path / "calm")
    stage, words = make_stage(qwen3_base, **settings), tmp_path / "words"
    complete = StoredCheckpoints(stage.directory, lambda: None, 2).complete

    def step() -> int:
        return complete()[-1].step if complete() else 0

    def at_step(process: "subprocess.Popen[bytes]", wanted: int) -> list[psutil.Process]:
        """The processes of the gang, once a checkpoint of step `wanted` is complete."""
        while step() < wanted:
            assert process.poll() is None, words.with_suffix(".log").read_text()
            time.sleep(0.05)
        found = [one for one in psutil.Process(process.pid).children() if "RANK" in one.environ()]
        return sorted(found, key=lambda one: int(one.environ()["RANK"]))

    with socket.create_server(("127.0.0.1", 0)) as free:
        where = {"HANFORGE_MASTER_ADDR": "127.0.0.1", "HANFORGE_MASTER_PORT": str(free.getsockname()[1])}
    one, other = start(stage, tmp_path / "left", 0, 2, **where), start(stage, words, 1, 2, **where)
    at_step(other, 1)[0].kill()
    assert (other.wait(60), one.wait(60)) == (1, 1)  # the one that is left does not wait for ever
    assert words.read_text() == "phase1: process 1 was killed by SIGKILL"
    assert "process 1 was killed by SIGKILL" in {event.message for event in events(stage.store, stage.run_id)}

    one, other = start(stage, words, 0, 2, **where), start(stage, tmp_path / "left", 1, 2, **where)
    members = at_step(one, step() + 1)
    one.send_signal(signal.SIGTERM)
    assert (one.wait(60), other.wait(60)) == (143, 143)  # both saved the same step
    assert not any(member.is_running() for member in members)
    assert "progress is saved" in words.read_text() and "progress is saved" in (tmp_path / "left").read_text()

    assert step() < 8 and start(stage, words).wait(300) == 0
    assert "going on from the checkpoint" in words.with_suffix(".log").read_text()
    resumed = adapter(stage)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


def test_what_the_user_must_mend_keeps_its_exit_code(make_stage: MakeStage, qwen3_base: Path, tmp_path: Path) -> None:
    stage, words = make_stage(qwen3_base, processes=2, learning_rate=1e30, max_grad_norm=1e30), tmp_path / "words"
    assert start(stage, words).wait(120) == 2
    assert "the loss is nan at step" in words.read_text() and "Lower learning_rate" in words.read_text()


def test_nodes_share_the_processes(make_stage: MakeStage, qwen3_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = make_stage(qwen3_base, processes=2)
    assert ranks(stage) == range(2) and address_of_first(stage)[0] == "127.0.0.1"
    stage.index, stage.of = 1, 2
    assert ranks(stage) == range(1, 2)
    with pytest.raises(UserError, match="HANFORGE_MASTER_ADDR is not set"):
        address_of_first(stage)
    monkeypatch.setenv("HANFORGE_MASTER_ADDR", "phase1-0.gang")
    assert address_of_first(stage) == ("phase1-0.gang", 29500)
    stage.of = 3
    with pytest.raises(UserError, match="2 processes; 3 nodes cannot share"):
        ranks(stage)
