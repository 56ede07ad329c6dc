"""Mirroring from a real HTTP server that speaks the Hub's protocol: bytes, checksums, resume, access, errors."""

import hashlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.errors import Trouble, UserError
from pipeline.store.hub import ensure_model, mirror, mirrors, resolve_model
from pipeline.store.objects import Store
from tests.servers.faulty_proxy import faulty_proxy
from tests.servers.hub import HubServer, commit_of

MODEL = "maker/model-1b"
BYTES = random.Random(1)
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}" * 1000,
    "merges.txt": b"a b\n",
    "chat_template.jinja": b"{{ messages }}",
    "model-00001-of-00002.safetensors": BYTES.randbytes(3_000_000),
    "model-00002-of-00002.safetensors": BYTES.randbytes(1_000_000),
    "model.safetensors.index.json": b"{}",
    "LICENSE": b"free",
    "pytorch_model.bin": b"old weights",
    "original/consolidated.00.pth": b"other weights",
    "consolidated.safetensors": b"the same weights again",
    "onnx/model.json": b"{}",
    ".gitattributes": b"*.safetensors filter=lfs",
    "empty.txt": b"",
}
WANTED = {name for name in FILES if name not in ("pytorch_model.bin", "consolidated.safetensors", ".gitattributes")} - {
    "original/consolidated.00.pth",
    "onnx/model.json",
}


def contents(store: Store, reference: str = MODEL) -> dict[str, bytes]:
    return {part.name: store.read(part.key) for part in resolve_model(store, reference).parts}


def test_a_model_is_mirrored_with_what_is_needed_and_its_checksums(hub: HubServer, store_url: str) -> None:
    branch = hub.add(MODEL, FILES) / "main"
    store = Store(store_url)
    done = mirror(store, MODEL)
    assert done.revision == commit_of(branch) and done.licence == "apache-2.0" and done.requested == "main"
    assert contents(store) == {name: FILES[name] for name in WANTED}
    for part in done.parts:
        assert (part.bytes, part.sha256) == (len(FILES[part.name]), hashlib.sha256(FILES[part.name]).hexdigest())


def test_a_second_fetch_downloads_nothing_and_a_pinned_one_asks_nobody(hub: HubServer, tmp_path: Path) -> None:
    hub.add(MODEL, FILES)
    store = Store(str(tmp_path / "store"))
    first = mirror(store, MODEL)
    before = len(hub.requests())
    assert mirror(store, MODEL) == first
    assert all("/api/" in request["path"] for request in hub.requests()[before:])
    before = len(hub.requests())
    assert mirror(store, MODEL, revision=first.revision) == first and ensure_model(store, MODEL) == first
    assert len(hub.requests()) == before


def test_a_fetch_that_died_goes_on_with_the_missing_files(hub: HubServer, tmp_path: Path) -> None:
    branch = hub.add(MODEL, FILES) / "main"
    store = Store(str(tmp_path / "store"))
    first = "model-00001-of-00002.safetensors"
    store.put(f"models/{MODEL}/{commit_of(branch)}/{first}", FILES[first])  # whole, because nothing else appears
    mirror(store, MODEL)
    assert not any(first in request["path"] for request in hub.requests())
    assert contents(store) == {name: FILES[name] for name in WANTED}


def test_a_moved_branch_gives_a_second_mirror_and_the_revision_must_be_named(hub: HubServer, tmp_path: Path) -> None:
    hub.add(MODEL, FILES)
    store = Store(str(tmp_path / "store"))
    first = mirror(store, MODEL)
    hub.add(MODEL, {"config.json": b'{"model_type": "qwen3"}'})
    second = mirror(store, MODEL)
    assert {first.revision, second.revision} == {found.revision for found in mirrors(store, MODEL)}
    with pytest.raises(UserError, match=f"{MODEL}@"):
        resolve_model(store, MODEL)
    assert resolve_model(store, f"{MODEL}@{second.revision[:12]}") == second
    assert resolve_model(store, MODEL, first.revision) == first


def test_a_cut_connection_is_continued_and_failing_answers_are_asked_again(
    hub: HubServer, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100_000)  # what a cut may lose
    hub.add(MODEL, FILES)
    store = Store(store_url)
    with faulty_proxy(hub.endpoint, rate=0.1, seed=3, kinds=("error", "slowdown")) as proxy:
        monkeypatch.setenv("HF_ENDPOINT", proxy.address)
        proxy.plan("cut", "GET", "/cdn/models/maker/model-1b/main/model-00001", times=2)
        mirror(store, MODEL)
    assert contents(store) == {name: FILES[name] for name in WANTED}
    ranges = [request["range"] for request in hub.requests() if "model-00001" in request["path"] and request["range"]]
    assert ranges and all(asked.startswith("bytes=") and asked != "bytes=0-" for asked in ranges)


def test_the_store_may_fail_in_the_middle_of_a_large_file(
    hub: HubServer, faulty_s3_store_url: str, faulty_s3: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.store.objects.BLOCK_BYTES", 5 * 2**20)  # the smallest part S3 allows
    large = {**FILES, "model-00001-of-00002.safetensors": random.Random(2).randbytes(12_000_000)}
    hub.add(MODEL, large)
    store = Store(faulty_s3_store_url)
    mirror(store, MODEL)
    assert contents(store) == {name: large[name] for name in WANTED}


def test_changed_bytes_are_refused_and_nothing_is_left_that_counts(hub: HubServer, store_url: str) -> None:
    """The server serves other bytes than the tree promised: a commit is named, its files then change."""
    branch = hub.add(MODEL, FILES) / "main"
    store = Store(store_url)
    from pipeline.store import hub_client

    found = hub_client.look_up(MODEL, "model", "main")
    name = "model-00002-of-00002.safetensors"
    (branch / name).write_bytes(b"x" * 1_000_000)
    from pipeline.store.hub import _copied

    changed = next(file for file in found.files if file.name == name)
    commit = hub_client.HubRevision("model", MODEL, commit_of(branch), found.files, None)
    with pytest.raises(Trouble, match=r"sha256 .* instead of"):
        _copied(store, commit, changed, f"models/{MODEL}/x/{name}")
    assert not store.exists(f"models/{MODEL}/x/{name}")
    assert mirrors(store, MODEL) == []


def test_the_token_goes_to_the_hub_alone_and_into_no_object(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = hub.add(MODEL, FILES)
    (folder / "ACCESS").write_text("hf_secret_1")
    store = Store(str(tmp_path / "store"))
    (tmp_path / ".env").write_text("HF_TOKEN=hf_secret_1\n")
    monkeypatch.chdir(tmp_path)
    mirror(store, MODEL)
    asked = hub.requests()
    assert all(request["token"] for request in asked if "/resolve/" in request["path"])
    assert [request["token"] for request in asked if request["path"].startswith("/cdn/")] == [False, False]
    written = b"".join(path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file())
    assert b"hf_secret_1" not in written


@pytest.mark.parametrize(("token", "remedy"), [(None, "set HF_TOKEN"), ("hf_other", "no access yet")])
def test_a_gated_model_says_where_to_ask(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str | None, remedy: str
) -> None:
    (hub.add(MODEL, FILES) / "ACCESS").write_text("hf_secret")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match="gated") as refusal:
        mirror(Store(str(tmp_path / "store")), MODEL)
    assert remedy in str(refusal.value) and f"{hub.endpoint}/{MODEL}" in str(refusal.value)
    assert "hf_" not in str(refusal.value).replace("HF_", "")


def test_what_does_not_exist_is_named_with_its_neighbours(hub: HubServer, tmp_path: Path) -> None:
    hub.add(MODEL, FILES)
    store = Store(str(tmp_path / "store"))
    with pytest.raises(UserError, match=r"no model .*Did you mean Qwen/Qwen3-VL-8B-Instruct"):
        mirror(store, "Qwen/Qwen3-VL-8B-Instuct")
    with pytest.raises(UserError, match=r"has no revision 'v9'"):
        mirror(store, MODEL, revision="v9")
    with pytest.raises(UserError, match=r"EXAONE-4.0-32B"):
        mirror(store, "LGAI-EXAONE/EXAONE-4.0-3B")
    with pytest.raises(UserError, match=f"hanforge fetch {MODEL} --store"):
        resolve_model(store, MODEL)
    assert [request for request in hub.requests() if "EXAONE" in request["path"]] == []


def test_no_network_is_said_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"no Hub answers at http://127.0.0.1:9"):
        mirror(Store(str(tmp_path / "store")), MODEL)


def test_old_weights_are_taken_only_where_there_are_no_others(hub: HubServer, tmp_path: Path) -> None:
    hub.add(MODEL, {"config.json": b"{}", "pytorch_model.bin": b"w", "training_args.bin": b"x", "model.pth": b"y"})
    store = Store(str(tmp_path / "store"))
    assert [part.name for part in mirror(store, MODEL).parts] == ["config.json", "pytorch_model.bin"]
    hub.add("maker/gguf", {"model.gguf": b"w", "config.json": b"{}"})
    with pytest.raises(UserError, match=r"no safetensors or \.bin weights, only config\.json, model\.gguf"):
        mirror(store, "maker/gguf")


def test_a_data_set_is_mirrored_whole_and_serves_as_an_input(hub: HubServer, store_url: str) -> None:
    from pipeline.store.inputs import look_at

    rows = {"data/train.jsonl": json.dumps({"messages": []}).encode(), "data/x.parquet": b"PAR1" * 9, "README.md": b"#"}
    hub.add("maker/rows", {**rows, ".gitattributes": b""}, kind="datasets")
    store = Store(store_url)
    done = mirror(store, "maker/rows", "dataset")
    (standing,) = mirrors(store, "maker/rows", "dataset")
    assert {part.name: store.read(part.key) for part in standing.parts} == rows
    assert [file.name for file in look_at(done.url, "rows").files] == sorted(rows)


@pytest.mark.crash
def test_a_fetch_killed_at_many_points_ends_with_the_same_bytes(hub: HubServer, store_url: str) -> None:
    chance = random.Random(5)
    large = {**FILES, **{f"model-{n}.safetensors": chance.randbytes(2_000_000) for n in range(6)}}
    hub.add(MODEL, large)
    command = [sys.executable, "-m", "jobs", "fetch", MODEL, "--store", store_url, "--concurrency", "2"]
    killed = 0
    while killed < 3:
        fetch = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        assert fetch.stderr is not None
        fetch.stderr.readline()  # it has begun: one file is done
        time.sleep(chance.random() * 0.1)
        if fetch.poll() is not None:
            break
        fetch.kill()
        fetch.wait()
        fetch.stderr.close()
        killed += 1
    mirror(Store(store_url), MODEL)
    wanted = WANTED | {name for name in large if name not in FILES}
    assert contents(Store(store_url)) == {name: large[name] for name in wanted}
