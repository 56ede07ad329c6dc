"""The commit protocol: the first commit wins, everybody adopts it, and what a manifest names is whole or an error."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.errors import Trouble
from pipeline.store.commit import Counts, Done, StageDirectory
from pipeline.store.objects import Store
from pipeline.store.shards import SUFFIX, Compression
from pipeline.store.stage import Rows
from tests.servers.faulty_proxy import FaultyProxy

LINES = [b'{"n": %d, "text": "\xed\x95\x9c\xea\xb8\x80"}' % number for number in range(50)]


def directory(url: str) -> StageDirectory:
    return StageDirectory(Store(url), "prepare", "f" * 32)


def write(stage: StageDirectory, unit: str, lines: list[bytes], compression: Compression = "zstd") -> Done:
    with stage.write_rows(unit, compression=compression) as writer:
        for line in lines:
            writer.write(line)
    return stage.commit_unit(unit, {"rows": [writer.committed()]}, Counts(len(lines), len(lines)))


@pytest.mark.parametrize("compression", list(SUFFIX))
def test_rows_come_back_in_the_manifests_order(store_url: str, compression: Compression) -> None:
    stage = directory(store_url)
    for unit, lines in (("b", LINES[:20]), ("a", LINES[20:])):
        write(stage, unit, lines, compression)
    manifest = stage.commit_manifest(["b", "a"], {"seconds": 1})
    assert list(Rows(stage.store, "prepare", tuple(manifest.outputs["rows"])).lines()) == LINES
    assert (manifest.counts.planned, manifest.counts.ok, manifest.measurements) == (50, 50, {"seconds": 1})
    assert stage.commit_manifest(["a"], {"seconds": 2}) == manifest  # what stands is adopted


def test_the_first_commit_of_a_unit_wins_and_the_second_adopts_it(store_url: str) -> None:
    first, second = directory(store_url), directory(store_url)
    mine = write(first, "0", LINES)
    theirs = write(second, "0", LINES[:3])
    assert theirs == mine == second.done()["0"] and second.done_names() == {"0"}
    assert len(first.store.list(first.key("parts"))) == 2  # the loser's part stays, and no manifest names it


def test_writers_that_race_end_with_one_plan_one_commit_one_manifest(store_url: str) -> None:
    def work(number: int) -> tuple[object, Done, object]:
        stage = directory(store_url)
        plan = stage.plan(lambda: {"units": ["0"], "by": number})
        done = write(stage, "0", LINES[: number + 1])
        return plan["by"], done, stage.commit_manifest(["0"], {"by": number}).raw["measurements"]["by"]

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(work, range(8)))
    assert all(outcome == outcomes[0] for outcome in outcomes)


def test_rows_that_do_not_add_up_are_not_committed(store_url: str) -> None:
    stage = directory(store_url)
    with pytest.raises(RuntimeError, match="do not add up"):
        stage.commit_unit("0", {}, Counts(planned=3, ok=1, rejected={"chinese": 1}))
    write(stage, "0", LINES)
    with pytest.raises(Trouble, match="1 of 2 units are not committed, first '1'"):
        stage.commit_manifest(["0", "1"])
    assert stage.manifest() is None


def test_a_writer_that_fails_stores_nothing(store_url: str) -> None:
    stage = directory(store_url)

    def fail() -> None:
        with stage.write_rows("0") as writer:
            writer.write(LINES[0])
            raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        fail()
    assert stage.store.list(stage.prefix) == []


@pytest.mark.parametrize("spoil", [lambda data: data[:-7], lambda data: b"", lambda data: data[:-1] + b"\0"])
def test_a_truncated_or_changed_part_is_trouble_and_never_fewer_rows(store_url: str, spoil: object) -> None:
    stage = directory(store_url)
    done = write(stage, "0", LINES)
    [part] = done.outputs["rows"]
    stage.store.put(part.key, spoil(stage.store.read(part.key)))  # type: ignore[operator]
    with pytest.raises(Trouble, match="the manifest says"):
        list(Rows(stage.store, "prepare", (part,)).lines())


def test_a_whole_stage_survives_every_lost_answer(faulty_s3_store_url: str, faulty_s3: FaultyProxy) -> None:
    """Every create's first answer is lost after it was applied: the 412 that follows is one's own success."""
    faulty_s3.rate = 0.0
    stage = directory(faulty_s3_store_url)
    for part_of_key in ("plan.json", "parts", "done/0.json", "_MANIFEST.json"):
        faulty_s3.plan("lost", "PUT", part_of_key)
    assert stage.plan(lambda: {"units": ["0"]}) == {"units": ["0"]}
    done = write(stage, "0", LINES)
    manifest = stage.commit_manifest(["0"])
    assert faulty_s3.counts["lost"] == 4
    assert manifest.outputs == done.outputs
    assert list(Rows(stage.store, "prepare", tuple(manifest.outputs["rows"])).lines()) == LINES


def test_the_same_rows_have_the_same_content_hash_whoever_wrote_them(store_url: str) -> None:
    one, other = directory(store_url), StageDirectory(Store(store_url), "prepare", "e" * 32)
    for stage in (one, other):
        write(stage, "0", LINES)
        stage.commit_manifest(["0"])
    first, second = one.manifest(), other.manifest()
    assert first is not None and second is not None
    assert first.content("rows") == second.content("rows") and first.outputs != second.outputs
