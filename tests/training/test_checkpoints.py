"""Checkpoints in the store: only complete ones count, old ones go, a superseded writer completes none."""

from pathlib import Path

import pytest

from pipeline.errors import Trouble
from pipeline.store.commit import StageDirectory
from pipeline.store.objects import Store
from pipeline.training.checkpoints import MARKER, StoredCheckpoints


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
    with pytest.raises(Trouble, match="not what its marker says"):
        stored.fetch(made, tmp_path / "back")
    stored.delete_all()
    assert directory.store.list(directory.key("checkpoints")) == []
    assert MARKER == "done.json"
