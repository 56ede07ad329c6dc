"""Checkpoints in the store: only complete ones count, old ones go, a superseded writer completes none."""

from pathlib import Path

import pytest

from pipeline.errors import Trouble
from pipeline.store.commit import StageDirectory
from pipeline.store.inputs import Damaged
from pipeline.store.objects import Store
from pipeline.training.checkpoints import MARKER, StoredCheckpoints
from tests.servers.faulty_proxy import FaultyProxy
from tests.servers.s3 import S3Server


@pytest.fixture
def directory(store_url: str) -> StageDirectory:
    return StageDirectory(Store(store_url), "train", "f" * 24)


def local(folder: Path, content: bytes) -> Path:
    (folder / "inner").mkdir(parents=True, exist_ok=True)
    (folder / "inner" / "weights").write_bytes(content)
    (folder / "state.json").write_text("{}")
    return folder


def test_the_newest_complete_checkpoint_comes_back_as_it_was(directory: StageDirectory, tmp_path: Path) -> None:
    stored = StoredCheckpoints(directory, lambda: None, keep=2)
    for step in (5, 10, 15):
        stored.save(step, local(tmp_path / "out", b"%d" % step))
    assert [one.step for one in stored.complete()] == [10, 15]
    fetched = stored.fetch(stored.complete()[-1], tmp_path / "back")
    assert (fetched / "inner" / "weights").read_bytes() == b"15" and (fetched / "state.json").read_text() == "{}"


def test_a_checkpoint_without_its_marker_does_not_count_and_is_cleared_away(
    directory: StageDirectory, tmp_path: Path
) -> None:
    stored = StoredCheckpoints(directory, lambda: None, keep=2)
    directory.store.put(directory.key("checkpoints", "00000009-dead", "state.json"), b"{}")
    assert stored.complete() == []
    stored.save(5, local(tmp_path / "out", b"5"))
    assert [one.step for one in stored.complete()] == [5]
    assert not directory.store.list(directory.key("checkpoints", "00000009-dead"))


def test_a_superseded_writer_completes_no_checkpoint(directory: StageDirectory, tmp_path: Path) -> None:
    def superseded() -> None:
        raise Trouble("writer 2 took over")

    with pytest.raises(Trouble, match="took over"):
        StoredCheckpoints(directory, superseded, keep=2).save(5, local(tmp_path / "out", b"5"))
    assert StoredCheckpoints(directory, lambda: None, keep=2).complete() == []


def test_a_damaged_file_is_found_before_it_is_used(directory: StageDirectory, tmp_path: Path) -> None:
    stored = StoredCheckpoints(directory, lambda: None, keep=2)
    made = stored.save(5, local(tmp_path / "out", b"5"))
    directory.store.put(directory.key("checkpoints", made.name, "state.json"), b"{]")
    with pytest.raises(Damaged, match="not what its manifest says"):
        stored.fetch(made, tmp_path / "back")
    stored.delete_all()
    assert directory.store.list(directory.key("checkpoints")) == []
    assert MARKER == "done.json"


def test_a_damaged_checkpoint_is_passed_over_for_an_older_one(
    directory: StageDirectory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored = StoredCheckpoints(directory, lambda: None, keep=4)
    made = [stored.save(step, local(tmp_path / "out", b"%d" % step)) for step in (5, 10, 15, 20)]
    directory.store.put(directory.key("checkpoints", made[3].name, "inner", "weights"), b"cut")
    directory.store.delete(directory.key("checkpoints", made[2].name, "state.json"))
    directory.store.put(directory.key("checkpoints", made[1].name, MARKER), b"{")
    resuming = StoredCheckpoints(directory, lambda: None, keep=1)
    newest = resuming.newest(tmp_path / "back")
    assert newest is not None and newest[0].step == 5
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["checkpoint-5"]
    assert (newest[1] / "inner" / "weights").read_bytes() == b"5"
    assert all(f"step {step} is passed over" in caplog.text for step in (10, 15, 20))
    resuming.save(6, local(tmp_path / "out", b"6"))
    assert [one.step for one in StoredCheckpoints(directory, lambda: None, keep=1).complete()] == [6]


def test_without_a_sound_checkpoint_a_training_begins_anew_and_a_failing_store_is_trouble(
    faulty_s3: FaultyProxy, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANFORGE_STORE_PATIENCE", "1")
    directory = StageDirectory(Store(f"s3://{s3.new_bucket()}/store"), "train", "f" * 24)
    stored = StoredCheckpoints(directory, lambda: None, keep=2)
    made = stored.save(5, local(tmp_path / "out", b"5"))
    faulty_s3.kinds, faulty_s3.rate = ("slowdown",), 1.0
    with pytest.raises(Trouble, match="cannot"):
        stored.newest(tmp_path / "back")
    faulty_s3.rate = 0.0
    directory.store.delete(directory.key("checkpoints", made.name, "state.json"))
    assert stored.newest(tmp_path / "back") is None
