"""10,000 hostile records through prepare and validate, a tenth through augment: each is accounted for and found again,
and none ends a worker.

HANFORGE_HOSTILE_RECORDS sets how many (10,000), HANFORGE_CRASH_SEED which.
"""

import base64
import gzip
import importlib
import os
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard

from pipeline.store.commit import Manifest
from pipeline.store.objects import Store
from pipeline.store.stage import Rows, Stage
from pipeline.text.examine import REASONS
from tests.crash import hostile
from tests.servers.openai_endpoint import openai_server
from tests.teacher.runs import augment_settings, locked
from tests.text.stages import prepared

SEED = int(os.environ.get("HANFORGE_CRASH_SEED", "1"))
RECORDS = int(os.environ.get("HANFORGE_HOSTILE_RECORDS", "10000"))
FILES = 10
BOM = b"\xef\xbb\xbf"

Places = dict[str, bytes]  # "file.jsonl:LINE" -> the line as it was written


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Places]:
    """Ten files, one packed with gzip, one with zstd, one with a byte order mark and without its last newline."""
    folder = tmp_path_factory.mktemp("hostile") / "raw"
    folder.mkdir()
    every = list(hostile.lines(RECORDS, SEED))
    places: Places = {}
    for number in range(FILES):
        mine = every[number::FILES]
        name = f"file{number}.jsonl"
        places |= {f"{name}:{at}": line for at, line in enumerate(mine, 1)}
        data = b"\n".join(mine) + b"\n"
        if number == 0:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data, 1))
        elif number == 1:
            (folder / f"{name}.zst").write_bytes(zstandard.compress(data, 1))
        elif number == 2:
            (folder / name).write_bytes(BOM + data.removesuffix(b"\n"))
        else:
            (folder / name).write_bytes(data)
    return folder, places


def rows_of(stage: Stage, manifest: Manifest, output: str) -> list[dict[str, Any]]:
    return list(Rows(stage.store, output, tuple(manifest.outputs.get(output, ()))))


def place_of(reject: dict[str, Any]) -> str:
    """Where its line lies; a row that names an origin of its own tells both."""
    return str(reject.get("place") or reject["origin"])


def original(reject: dict[str, Any]) -> bytes:
    """The line that a reject says it was."""
    if reject.get("encoding") == "base64":
        return base64.b64decode(reject["line"])
    return str(reject["line"]).encode()


def assert_accounted(stage: Stage, manifest: Manifest, places: Places) -> Counter[str]:
    """planned = ok + rejected, every line stands in exactly one output, every reject gives its line back."""
    kept, rejects = rows_of(stage, manifest, "rows"), rows_of(stage, manifest, "rejects")
    assert manifest.counts.planned == len(places) == len(kept) + len(rejects)
    assert manifest.counts.balanced() and manifest.counts.ok == len(kept)
    found = [row["origin"] for row in kept] + [place_of(reject) for reject in rejects]
    foreign, missing = Counter(found) - Counter(places.keys()), Counter(places.keys()) - Counter(found)
    named = Counter(orjson.loads(places[place])["origin"] for place in missing)  # rows that name an origin of their own
    assert Counter(found).total() == len(places) and foreign == named
    for reject in rejects:
        line = places[place_of(reject)]
        if reject.get("truncated"):
            assert line.decode(errors="replace").startswith(reject["line"][:1000])
        else:
            assert original(reject).rstrip(b"\r") == line.rstrip(b"\r"), reject
    reasons = Counter(reject["reason"] for reject in rejects)
    assert dict(reasons) == manifest.counts.rejected
    return reasons


def test_prepare_accounts_for_every_hostile_record(raw: tuple[Path, Places], tmp_path: Path) -> None:
    folder, places = raw
    stage, manifest = prepared(f"file://{tmp_path / 'store'}", folder, workers=2, shard_rows=997)
    filled = {place: line for place, line in places.items() if line and not line.isspace()}
    reasons = assert_accounted(stage, manifest, filled)
    assert set(reasons) <= set(REASONS)
    print(f"prepare: {len(filled)} records, {manifest.counts.ok} ok, {dict(reasons.most_common())}")


def test_validate_accounts_for_every_hostile_record(raw: tuple[Path, Places], tmp_path: Path) -> None:
    folder, places = raw
    done_over(tmp_path, {"kind": "validate", "source": str(folder)}, places)


def test_augment_accounts_for_every_hostile_record(
    raw: tuple[Path, Places], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth of them: one file."""
    folder, places = raw
    mine = {place: line for place, line in places.items() if place.startswith("file3.jsonl:")}
    with openai_server() as server:
        monkeypatch.setenv("HANFORGE_TEACHER_ENDPOINT", server.url)
        done_over(tmp_path, augment_settings(source=str(folder / "file3.jsonl"), singleturn_ratio=None), mine)


def done_over(tmp_path: Path, settings: dict[str, Any], places: Places) -> None:
    """Run a stage over these lines, and account for them."""
    store = Store(f"file://{tmp_path / 'store'}")
    stage = Stage(store, locked(store, {"hostile": settings}), "hostile")
    importlib.import_module(f"jobs.{settings['kind']}").run(stage)
    manifest = stage.directory.manifest()
    assert manifest is not None
    filled = {place: line for place, line in places.items() if line.rstrip(b"\r\n")}
    reasons = assert_accounted(stage, manifest, filled)
    print(f"{settings['kind']}: {len(filled)} records, {manifest.counts.ok} ok, {dict(reasons.most_common())}")
