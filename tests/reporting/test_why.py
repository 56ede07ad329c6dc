"""`why` and `logs` from what processes left: exit codes, signals, silence, gates, and what upstream lacks."""

import time
from pathlib import Path

import orjson
import pytest

from pipeline.errors import UserError
from pipeline.reporting.logs import stage_logs
from pipeline.reporting.why import reasons
from pipeline.store import events
from pipeline.store.commit import Counts
from pipeline.store.objects import Store
from pipeline.store.runs import RunLock
from tests.reporting.chain import RECIPE, build, do, new_run


def ended(store: Store, lock: RunLock, stage: str, code: int, message: str, what: str = "ended") -> None:
    events.say(store, lock.run_id, stage, "started", f"000-{stage}")
    events.say(store, lock.run_id, stage, what, f"000-{stage}", code, message)


def line(store: Store, lock: RunLock, stage: str) -> str:
    return next(text for text in reasons(store, lock) if text.startswith(f"{stage}: "))


def test_a_finished_run_says_so_in_one_line(tmp_path: Path) -> None:
    store, lock = build(tmp_path)
    assert reasons(store, lock) == [f"all 12 stages of run {lock.run_id} are done"]


def test_a_fresh_run_names_what_is_ready_and_what_waits_in_the_order_of_the_chain(tmp_path: Path) -> None:
    store, lock = new_run(tmp_path)
    said = reasons(store, lock)
    assert said[0].startswith("prepare: all it needs is done") and "hanforge run tiny-vla --only prepare" in said[0]
    assert said[-1].startswith("serve: it waits for promote (waiting).") and "follows by itself" in said[-1]


@pytest.mark.parametrize(
    ("code", "message", "cause", "remedy"),
    [
        (
            2,
            "input 'raw': nothing at /data. Put the files there",
            "Put the files there.",
            "Then: hanforge run tiny-vla",
        ),
        (1, "cannot read s3://b/x", "cannot read s3://b/x (exit code 1, passing trouble)", "hanforge logs prepare"),
        (137, "its process was killed by SIGKILL", "for want of memory", "Give profile 'cpu' more memory"),
        (139, "gone", "SIGSEGV killed its process (exit code 139)", "hanforge logs prepare"),
        (143, "stopped on request", "asked to stop", "It goes on from there"),
    ],
)
def test_each_way_of_ending_has_its_cause_and_remedy(
    tmp_path: Path, code: int, message: str, cause: str, remedy: str
) -> None:
    store, lock = new_run(tmp_path)
    ended(store, lock, "prepare", code, message, "observed" if code > 128 and code != 143 else "ended")
    said = line(store, lock, "prepare")
    assert cause in said and remedy in said
    assert "Mend prepare first" in line(store, lock, "phase2")


def test_an_oom_kill_seen_by_the_cluster_names_the_settings_that_save_memory(tmp_path: Path) -> None:
    store, lock = build(tmp_path, "validate")
    events.say(store, lock.run_id, "phase1", "started", "w")
    events.say(store, lock.run_id, "phase1", "observed", "w", 1, "container ended", reason="OOMKilled")
    assert "lower per_device_train_batch_size (now 4) and max_length" in line(store, lock, "phase1")


def test_a_silent_process_is_said_to_have_vanished(tmp_path: Path) -> None:
    store, lock = new_run(tmp_path)
    record = {"time": time.time() - 900, "stage": "prepare", "what": "started", "worker": "w", "exit_code": None}
    store.put(f"runs/{lock.run_id}/events/0.json", orjson.dumps({**record, "message": "", "facts": {}}))
    progress = {"state": "running", "time": time.time() - 800, "done": 10, "total": 100}
    store.put(lock.directory(store, "prepare").key("progress", "w.json"), orjson.dumps(progress))
    said = line(store, lock, "prepare")
    assert "vanished without a word" in said and "was last heard of 80" in said


def test_a_quiet_running_process_is_told_from_a_busy_one(tmp_path: Path) -> None:
    store, lock = new_run(tmp_path)
    events.say(store, lock.run_id, "prepare", "started", "w")
    key = lock.directory(store, "prepare").key("progress", "w.json")
    store.put(key, orjson.dumps({"state": "running", "time": time.time() - 20, "done": 10, "total": 100}))
    assert "it runs at 10 of 100, and has been quiet for 20 s" in line(store, lock, "prepare")
    store.put(key, orjson.dumps({"state": "running", "time": time.time(), "done": 11, "total": 100}))
    assert "it runs at 11 of 100." in line(store, lock, "prepare")


def test_a_refused_gate_is_told_with_the_reader_s_limits_and_how_to_look(tmp_path: Path) -> None:
    store, lock = new_run(tmp_path, RECIPE.replace("min_pass_rate: 0.5", "min_pass_rate: 0.99"))
    for name in ("prepare", "augment", "validate"):
        do(store, lock, name)
    said = line(store, lock, "validate")
    assert "min_pass_rate 0.99 is missed by 0.097" in said
    assert f"hanforge show-sample {lock.run_id}:validate --output rejects" in said
    assert "it waits for merge1 (waiting), validate (refused). Mend validate first" in line(store, lock, "phase2")


def test_committed_units_of_a_stopped_stage_are_counted(tmp_path: Path) -> None:
    store, lock = build(tmp_path, "prepare")
    lock.directory(store, "augment").commit_unit("00000", {}, Counts())
    ended(store, lock, "augment", 143, "stopped on request")
    assert "(1 units are committed)" in line(store, lock, "augment")


def test_logs_are_cut_to_the_last_lines_and_titled_with_their_end(tmp_path: Path) -> None:
    store, lock = build(tmp_path, "prepare")
    folder = lock.directory(store, "prepare")
    store.put(folder.key("logs", "000-other.log"), b"2020-01-01 00:00:00,0 INFO hanforge earlier\n")
    store.put(folder.key("logs", "tensorboard", "events.out"), b"\x00binary")
    (earlier, _), (title, text) = stage_logs(store, lock, "prepare", 1)
    assert earlier == "000-other, 2020-01-01 00:00:00, of another run"
    assert title.startswith("000-prepare, ") and title.endswith("ended with exit code 0") and text == "ended"
    assert len(stage_logs(store, lock, "prepare", 0)[1][1].splitlines()) == 2


def test_logs_of_a_stage_that_never_ran_are_an_error_with_the_command(tmp_path: Path) -> None:
    store, lock = new_run(tmp_path)
    with pytest.raises(UserError, match=r"has no log: never started.*--only prepare"):
        stage_logs(store, lock, "prepare", 10)
