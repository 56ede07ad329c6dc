"""A set opens in DuckDB and in datasets straight from its parts, on a disk and in a bucket: the documented lines."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from jobs.cli import app
from pipeline.errors import UserError
from pipeline.reporting.rows import output_rows
from pipeline.store.export import part_urls
from pipeline.store.objects import Store
from pipeline.store.runs import RunLock
from tests.reporting.chain import build


@pytest.fixture
def made(store_url: str, tmp_path: Path) -> tuple[Store, RunLock]:
    """Prepared and augmented rows in small parts; the bucket holds a copy of the folder."""
    local, lock = build(tmp_path, "augment")
    store = Store(store_url)
    for entry in local.list(""):
        if not store.exists(entry.key):
            store.upload(entry.key, Path(local.path(entry.key)))
    return store, lock


def rows_of(store: Store, lock: RunLock, stage: str, output: str | None = None) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in output_rows(store, lock, stage, output).lines()]


def test_duckdb_reads_the_parts(made: tuple[Store, RunLock]) -> None:
    import duckdb

    store, lock = made
    connection = duckdb.connect()
    if not store.is_local:
        import fsspec

        connection.register_filesystem(fsspec.filesystem("s3"))
    for stage in ("prepare", "augment"):
        query = "SELECT id, source, messages[-1].content FROM read_json(?)"
        found = connection.sql(query, params=[part_urls(f"latest:{stage}", store.url)]).fetchall()
        expected = [(row["id"], row["source"], row["messages"][-1]["content"]) for row in rows_of(store, lock, stage)]
        assert sorted(found) == sorted(expected)


def test_datasets_reads_the_parts(made: tuple[Store, RunLock], tmp_path: Path) -> None:
    from datasets import load_dataset

    store, lock = made
    for stage in ("prepare", "augment"):
        urls = part_urls(f"latest@tiny-vla:{stage}", store.url)
        found = load_dataset("json", data_files=urls, split="train", cache_dir=str(tmp_path / "cache"))
        assert list(found) == rows_of(store, lock, stage)


def test_the_command_prints_the_urls_of_any_output(made: tuple[Store, RunLock]) -> None:
    store, _ = made
    words = ["parts", "latest:prepare/rejects", "--store", store.url]
    printed = CliRunner().invoke(app, words, catch_exceptions=False).output.split()
    assert printed == part_urls("latest:prepare/rejects", store.url)
    assert all(url.startswith(store.url) and store.exists(url.removeprefix(f"{store.url}/")) for url in printed)
    with pytest.raises(UserError, match="is not RUN:STAGE"):
        CliRunner().invoke(app, ["parts", "prepare", "--store", store.url], catch_exceptions=False)
