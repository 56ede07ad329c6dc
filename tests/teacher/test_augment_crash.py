"""augment killed with SIGKILL at random instants: the same bytes as undisturbed, and hardly a request paid twice."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.store.objects import Store
from pipeline.store.stage import Stage
from tests.servers.openai_endpoint import OpenAIServer, openai_server
from tests.servers.process import ROOT
from tests.teacher.runs import augment_settings, prepared_rows, run, with_prepared

ROWS = 300
CONCURRENCY = 16
MARKS = {3: "[over-length]", 40: "[length]", 77: "[silent]"}
WORKER = """
import sys
from pipeline.store.objects import Store
from pipeline.store.runs import read_run
from pipeline.store.stage import Stage
from pipeline.teacher.augment import run
store = Store(sys.argv[1])
stage = Stage(store, read_run(store, sys.argv[2]), "augment")
stage.stop.listen()
run(stage)
"""


def stage_of(url: str) -> Stage:
    client = augment_settings()["client"] | {"concurrency": CONCURRENCY}
    settings = augment_settings(flush_rows=8, flush_seconds=0.5, client=client)
    store = Store(url)
    return Stage(store, with_prepared(store, prepared_rows(ROWS, marks=MARKS), {"augment": settings}), "augment")


def start(stage: Stage, server: OpenAIServer) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "HANFORGE_TEACHER_ENDPOINT": server.url}
    words = [sys.executable, "-c", WORKER, stage.store.url, stage.run_id]
    return subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)


def killed_until_done(stage: Stage, server: OpenAIServer, rng: random.Random, most: int) -> int:
    """Start and kill until the stage is done, at most `most` kills, then let it finish; gives the number of kills."""
    kills = 0
    while stage.directory.manifest() is None:
        before, goal = server.stats()["received"], rng.randint(5, 60)
        process = start(stage, server)
        while process.poll() is None and (kills >= most or server.stats()["received"] - before < goal):
            time.sleep(0.01)
        time.sleep(rng.random() * 0.05)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        code = process.wait()
        assert code in (0, -signal.SIGKILL)
    return kills


@pytest.mark.crash
def test_kills_change_no_byte_and_lose_no_stored_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with openai_server() as server:
        monkeypatch.setenv("HANFORGE_TEACHER_ENDPOINT", server.url)
        calm = stage_of(f"file://{tmp_path / 'calm'}")
        run(calm)
    with openai_server() as server:
        server.control(latency_seconds=0.03, fault_rate=0.05)
        shaken = stage_of(f"file://{tmp_path / 'shaken'}")
        kills = killed_until_done(shaken, server, random.Random(5), most=3)
        answered = sum(server.stats()["answered"].values())
    one, other = calm.directory.manifest(), shaken.directory.manifest()
    assert kills >= 2 and one is not None and other is not None
    assert one.counts == other.counts
    assert one.content("rows") == other.content("rows") and one.content("rejects") == other.content("rejects")
    paid_twice = answered - (ROWS - 1)  # the over-long one is never answered
    assert paid_twice <= kills * (CONCURRENCY * 2 + 8)


def test_sigterm_stores_what_came_and_ends_as_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with openai_server() as server:
        server.control(latency_seconds=0.05)
        stage = stage_of(f"file://{tmp_path / 'store'}")
        process = start(stage, server)
        while server.stats()["received"] < 50:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 1  # this bare worker lets `Stopped` end it; jobs/ makes it 143
        monkeypatch.setenv("HANFORGE_TEACHER_ENDPOINT", server.url)
        run(stage)
        assert max(server.stats()["answered"].values()) == 1
