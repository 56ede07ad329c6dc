"""The live look: new samples from the answers' segments alone, judged as the recipe would, on any store."""

import os
import signal
import subprocess
import sys

import orjson
import pytest

from pipeline.errors import UserError
from pipeline.store.objects import Store
from pipeline.store.runs import RunLock
from pipeline.store.stage import Stage
from pipeline.teacher.peek import Peek
from tests.servers.openai_endpoint import OpenAIServer
from tests.servers.process import ROOT
from tests.teacher.runs import augment_settings, prepared_rows, run, with_prepared

MARKS = {3: "[silent]", 5: "[over-length]", 7: "[length]"}
VALIDATE = {"kind": "validate", "source": {"stage": "augment"}, "checks": {"max_answer_characters": 5}}


def chain(store: Store, count: int = 40, **changes: object) -> RunLock:
    return with_prepared(
        store, prepared_rows(count, marks=MARKS), {"augment": augment_settings(**changes), "validate": VALIDATE}
    )


def test_samples_come_newest_first_with_the_verdict_of_every_stage(store_url: str, server: OpenAIServer) -> None:
    store = Store(store_url)
    stage = Stage(store, chain(store, flush_rows=8), "augment")
    peek = Peek(stage)
    assert peek.look(5) == ([], 0)
    run(stage)
    samples, left = peek.look(30)
    assert len(samples) == 30 and left == 10
    assert peek.look(30) == ([], 0)
    newest, left = Peek(stage).look(3)
    assert newest == samples[:3] and left == 0
    found = {sample["origin"].split(":")[1]: sample for sample in Peek(stage).look(100)[0]}
    assert len(found) == 40
    reasons = {number: (found[number].get("reason"), found[number]["verdict"]) for number in ("1", "3", "5", "7", "20")}
    assert reasons == {
        "1": (None, "passes"),
        "3": ("no_reasoning", "augment rejects it"),
        "5": ("over_length", "augment rejects it"),
        "7": ("truncated", "augment rejects it"),
        "20": ("answer_long", "validate rejects it"),
    }
    assert [turn["role"] for turn in found["20"]["messages"]] == ["user", "assistant"]
    assert found["20"]["messages"][0]["content"] == "20 더하기 7은?"
    assert found["20"]["messages"][1]["content"].endswith("</think>\n\n정답: 27")
    rejected = Peek(stage).look(100, rejected=True)[0]
    assert len(rejected) == sum("reason" in sample for sample in found.values()) > 10


def test_answers_to_another_prompt_are_not_shown(store: Store, server: OpenAIServer) -> None:
    run(Stage(store, chain(store), "augment"))
    other = Stage(store, chain(store, prompt="{question} 왜냐하면? {answer}"), "augment")
    assert Peek(other).look(5) == ([], 0)
    larger = Stage(store, chain(store, sample_ratio=0.5), "augment")
    assert len(Peek(larger).look(5)[0]) == 5


def test_other_kinds_are_refused(store: Store) -> None:
    with pytest.raises(UserError, match="of kind validate.*show-sample"):
        Peek(Stage(store, chain(store), "validate"))


def hanforge(*words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "jobs", *words]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )


def test_the_command_follows_a_running_stage_and_ends_with_it(store: Store, server: OpenAIServer) -> None:
    server.control(latency_seconds=0.2)
    lock = chain(store, flush_rows=4, client={**augment_settings()["client"], "concurrency": 4})
    process = hanforge("peek", f"{lock.run_id}:augment", "--store", store.url, "--json", "-n", "100")
    run(Stage(store, lock, "augment"))
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and errors.count("\n") == 1
    origins = [orjson.loads(line)["origin"] for line in out.splitlines()]
    assert len(origins) == len(set(origins)) == 40


def test_once_and_ctrl_c_end_cleanly(store: Store, server: OpenAIServer) -> None:
    lock = chain(store)
    once = hanforge("peek", "--store", store.url, "--once")
    follow = hanforge("peek", "augment", "--run", lock.run_id, "--store", store.url)
    assert once.communicate(timeout=60)[0].startswith("no answers yet") and once.returncode == 0
    assert follow.stderr is not None and "Ctrl-C ends" in follow.stderr.readline()
    os.kill(follow.pid, signal.SIGINT)
    out, errors = follow.communicate(timeout=60)
    assert follow.returncode == 0 and "Traceback" not in errors and out.startswith("no answers yet")
