"""What a stage tells while it runs, and that looking again reads only what is new."""

import json
from pathlib import Path

import pytest

from pipeline.store.commit import StageDirectory
from pipeline.store.events import events, say
from pipeline.store.objects import Store
from pipeline.store.progress import MetricsWriter, Progress, read_metrics


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"file://{tmp_path / 'store'}")


@pytest.fixture
def reads(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys that are read from the store, as they are read."""
    keys: list[str] = []
    read = store.read

    def noted(key: str) -> bytes:
        keys.append(key)
        return read(key)

    monkeypatch.setattr(store, "read", noted)
    return keys


def test_without_a_terminal_progress_is_one_json_line(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(StageDirectory(store, "prepare", "f" * 24), "000-a", "prepare", interval_seconds=0.0)
    progress.update(done=5, total=10, counts={"ok": 4, "rejected": 1})
    progress.update(done=6)  # within the interval
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert (told["stage"], told["done"], told["total"], told["counts"]) == ("prepare", 5, 10, {"ok": 4, "rejected": 1})
    assert {"rate", "eta_seconds", "state"} <= told.keys()


def test_events_and_metrics_are_read_once(store: Store, reads: list[str]) -> None:
    directory = StageDirectory(store, "train", "f" * 24)
    writer = MetricsWriter(directory, "000-a")
    for step in (1, 2):
        say(store, "run", "phase1", f"event {step}")
        writer.write({"step": step})
        writer.flush()
        assert [event.what for event in events(store, "run")] == [f"event {n}" for n in range(1, step + 1)]
        assert [record["step"] for record in read_metrics(directory)] == list(range(1, step + 1))
    assert len(reads) == 4 == len(set(reads))
    again = Store(store.url)  # another object, the same place
    assert len(events(again, "run")) == 2 and len(read_metrics(directory)) == 2
    assert len(reads) == 4


def test_a_segment_that_is_written_again_longer_is_read_again(store: Store) -> None:
    directory = StageDirectory(store, "train", "e" * 24)
    for lines in (b'{"time": 1, "step": 1}\n', b'{"time": 1, "step": 1}\n{"time": 2, "step": 2}\n'):
        store.put(directory.key("metrics", "000-a-00000.jsonl"), lines)
        assert len(read_metrics(directory)) == lines.count(b"\n")
