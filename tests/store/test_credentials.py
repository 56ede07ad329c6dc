"""Credentials that end while a stage runs: renewed ones are taken up; without, it ends clearly and loses nothing."""

import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from pipeline.errors import Trouble, UserError
from pipeline.recipe.models import Recipe
from pipeline.store.objects import Store
from pipeline.store.pins import resolve
from pipeline.store.probe import open_store
from pipeline.store.runs import RunLock, create_run
from tests.conftest import use_s3
from tests.servers.s3 import S3Server
from tests.text.stages import chat, jsonl, write_files

SECRET = "aws_secret_access_key = testing\n"


def environment(s3: S3Server, folder: Path, **more: str) -> dict[str, str]:
    """Credentials from files in `folder` alone."""
    settings = {name: value for name, value in s3.environment().items() if "ACCESS_KEY" not in name}
    files = {"AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"), "AWS_CONFIG_FILE": str(folder / "config")}
    return {**settings, **files, **more}


def write_key(folder: Path, key: str) -> None:
    (folder / "credentials").write_text(f"[default]\naws_access_key_id = {key}\n{SECRET}")


@pytest.mark.parametrize("prefix", ["until", "until403"])
def test_a_renewed_credentials_file_is_taken_up_by_a_running_process(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    write_key(tmp_path, f"{prefix}-9-{tmp_path.name}")
    use_s3(monkeypatch, environment(s3, tmp_path))
    store = Store(f"s3://{s3.new_bucket()}/store")
    renewal = threading.Timer(0.5, write_key, (tmp_path, "testing"))
    renewal.start()
    for number in range(20):  # the key dies on the way
        assert store.create(f"a/{number}", b"1")
        assert store.exists(f"a/{number}") and store.read(f"a/{number}") == b"1"
    assert renewal.finished.is_set() and len(store.list("a")) == 20


def test_botocore_renews_what_can_be_renewed(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A credential process, as roles of pods and machines: it is asked again before its keys end, and no call fails."""
    script = tmp_path / "keys.py"
    script.write_text(
        "import datetime, json, pathlib\n"
        f"count = pathlib.Path({str(tmp_path / 'count')!r})\n"
        "number = len(count.read_text()) if count.exists() else 0\n"
        "count.write_text('x' * (number + 1))\n"
        "soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=1)\n"
        f"key = f'until-60-{tmp_path.name}-{{number}}'\n"
        "print(json.dumps({'Version': 1, 'AccessKeyId': key, 'SecretAccessKey': 's', 'SessionToken': 't',\n"
        "                  'Expiration': soon.isoformat()}))\n"
    )
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {sys.executable} {script}\n")
    use_s3(monkeypatch, environment(s3, tmp_path, HANFORGE_STORE_PATIENCE="0.1"))
    monkeypatch.setenv("HANFORGE_STORE_PATIENCE", "0.1")
    store = Store(f"s3://{s3.new_bucket()}/store")
    for number in range(3):
        assert store.create(f"a/{number}", b"1") and store.read(f"a/{number}") == b"1"
    assert len((tmp_path / "count").read_text()) >= 3


def test_expired_and_refused_and_late_clocks_are_told_apart(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANFORGE_STORE_PATIENCE", "0.3")
    url = f"s3://{s3.new_bucket()}/store"
    for key, words in (("expired", "they have expired"), ("skewed", "clock is more than 15 minutes off"),
                       ("refused", "refused the credentials: The AWS Access Key Id does not exist")):  # fmt: skip
        use_s3(monkeypatch, s3.environment(access_key=key))
        with pytest.raises(UserError, match=words):  # at the start: for the user to mend
            open_store(url)
        with pytest.raises(Trouble, match=words):  # later: passing, for whoever starts it again
            Store(url).create("x", b"")


def locked_prepare(s3: S3Server, raw: Path) -> tuple[Store, RunLock]:
    """A run over the raw folder in a bucket of its own; every bucket gives the same lock."""
    settings = {"kind": "prepare", "source": {"input": "raw"}, "shard_rows": 10, "workers": 1}
    recipe = Recipe(name="token", inputs={"raw": {"url": str(raw)}}, stages={"prepare": settings})
    store = Store(f"s3://{s3.new_bucket()}/store")
    return store, create_run(store, resolve(store, recipe))


def stage_result(store: Store, lock: RunLock) -> Any:
    return CliRunner().invoke(app, ["stage", "prepare", "--store", store.url, "--run", lock.run_id])


def contents(store: Store, lock: RunLock) -> dict[str, str]:
    manifest = lock.directory(store, "prepare").manifest()
    assert manifest is not None
    return {output: manifest.content(output) for output in manifest.outputs}


def test_a_stage_whose_token_ends_says_so_and_goes_on_with_a_new_one(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [chat(f"{number} 더하기 하나?", f"답은 {number + 1}입니다.") for number in range(200)]
    raw = write_files(tmp_path / "raw", {f"{part}.jsonl": jsonl(*rows[part::4]) for part in range(4)})
    use_s3(monkeypatch, s3.environment())
    calm, lock = locked_prepare(s3, raw)
    assert stage_result(calm, lock).exit_code == 0
    store, lock = locked_prepare(s3, raw)
    use_s3(monkeypatch, s3.environment(access_key=f"until-70-{tmp_path.name}"))
    monkeypatch.setenv("HANFORGE_STORE_PATIENCE", "1")
    ended = stage_result(store, lock)
    said = ended.stderr
    assert ended.exit_code == 1 and "Traceback" not in said
    assert "refused the credentials: they have expired" in said and "Renew them" in said
    again = stage_result(store, lock)  # nothing was renewed: known at the start, so it is the user's to mend
    assert isinstance(again.exception, UserError) and "they have expired" in str(again.exception)
    use_s3(monkeypatch, s3.environment())
    store = Store(store.url)
    assert 0 < len(lock.directory(store, "prepare").done_names()) < 20
    assert stage_result(store, lock).exit_code == 0
    assert contents(store, lock) == contents(Store(calm.url), lock)
