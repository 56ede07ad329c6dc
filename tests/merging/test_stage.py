"""Merge as a stage: on real stores, killed and resumed, refusing the wrong base before anything is written."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.errors import Stopped, UserError
from pipeline.merging.checkpoint import open_checkpoint, weights_digest
from pipeline.store.objects import Store
from pipeline.store.runs import RunLock
from pipeline.store.stage import Stage
from tests.merging.checkpoints import adapt, peft_model, qwen3
from tests.merging.stages import commit_folder, locked, run
from tests.merging.test_merge import LAYERS, weights

SHARD_GIB = 4096 / (1 << 30)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANFORGE_CACHE", str(tmp_path / "cache"))


def trained(store: Store, tmp_path: Path, **merge: Any) -> tuple[RunLock, Path, Path]:
    """A run whose train stage has an adapter: (lock, base, adapter)."""
    base = qwen3(tmp_path / "base")
    adapter = adapt(base, tmp_path / "adapter", target_modules=LAYERS)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"messages": [{"role": "user", "content": "가"}, {"role": "assistant", "content": "나"}]}\n')
    train = {"kind": "train", "base": str(base), "data": str(rows)}
    settings = {"kind": "merge", "adapter": {"stage": "phase1"}, **merge}
    lock = locked(store, {"phase1": train, "merge1": settings})
    commit_folder(store, lock, "phase1", "adapter", adapter)
    return lock, base, adapter


def test_a_stage_merges_into_the_base_that_was_trained(store_url: str, tmp_path: Path) -> None:
    store = Store(store_url)
    lock, base, adapter = trained(store, tmp_path, max_shard_gib=SHARD_GIB)
    run(Stage(store, lock, "merge1"))
    manifest = lock.directory(store, "merge1").manifest()
    assert manifest is not None and manifest.counts.balanced()
    assert manifest.measurements["tensors"] == manifest.counts.ok == len(weights(base))
    assert manifest.measurements["changed"] == 14

    again = locked(store, {"merge2": {"kind": "merge", "adapter": str(adapter), "base": str(base)}}, "other")
    assert again.stages["merge2"].fingerprint != lock.stages["merge1"].fingerprint
    from pipeline.store.cache import staged
    from pipeline.store.inputs import stored_files

    folder = staged(stored_files(store, manifest.outputs["model"]))
    theirs = peft_model(base, adapter).merge_and_unload().state_dict()
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert all(torch.equal(value, theirs[name]) for name, value in model.state_dict().items())
    assert json.loads((folder / "hanforge.json").read_text())["base"]["identity"].startswith("input:")


def test_workers_share_the_files_and_give_the_same_bytes(tmp_path: Path) -> None:
    alone = Store(f"file://{tmp_path / 'alone'}")
    lock, _, _ = trained(alone, tmp_path, max_shard_gib=SHARD_GIB)
    run(Stage(alone, lock, "merge1"))
    shared = Store(f"file://{tmp_path / 'shared'}")
    other, _, _ = trained(shared, tmp_path, max_shard_gib=SHARD_GIB, concurrency=1)
    for index in (2, 0, 1):
        run(Stage(shared, other, "merge1", index, 3))
    first, second = lock.directory(alone, "merge1").manifest(), other.directory(shared, "merge1").manifest()
    assert first is not None and second is not None
    assert first.content("model") == second.content("model")


def test_a_killed_merge_goes_on_at_the_next_file(tmp_path: Path) -> None:
    calm = Store(f"file://{tmp_path / 'calm'}")
    lock, _, _ = trained(calm, tmp_path, max_shard_gib=SHARD_GIB)
    run(Stage(calm, lock, "merge1"))
    expected = lock.directory(calm, "merge1").manifest()

    store = Store(f"file://{tmp_path / 'killed'}")
    lock, _, _ = trained(store, tmp_path, max_shard_gib=SHARD_GIB)
    directory = lock.directory(store, "merge1")
    code = "import sys, jobs.merge; from pipeline.store.runs import read_run; from pipeline.store.stage import Stage;"
    code += "from pipeline.store.objects import Store; store = Store(sys.argv[1]);"
    code += "jobs.merge.run(Stage(store, read_run(store, sys.argv[2]), 'merge1'))"
    killed: list[int] = []
    while directory.manifest() is None and len(killed) < 2:
        before = len(directory.done_names())
        process = subprocess.Popen([sys.executable, "-c", code, store.url, lock.run_id], env=dict(os.environ))
        deadline = time.monotonic() + 120
        while process.poll() is None and len(directory.done_names()) < before + 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed.append(len(directory.done_names()))
    assert killed[0] > 0
    kept = {unit: done.outputs for unit, done in directory.done().items()}
    run(Stage(store, lock, "merge1"))
    manifest = directory.manifest()
    assert manifest is not None and expected is not None
    assert manifest.content("model") == expected.content("model")
    assert all(directory.done()[unit].outputs == outputs for unit, outputs in kept.items())


def test_a_stop_ends_between_files_and_keeps_what_is_done(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path / 'store'}")
    lock, _, _ = trained(store, tmp_path, max_shard_gib=SHARD_GIB)
    stage = Stage(store, lock, "merge1")
    stage.stop.request()
    with pytest.raises(Stopped):
        run(stage)
    assert lock.directory(store, "merge1").manifest() is None
    run(Stage(store, lock, "merge1"))
    assert lock.directory(store, "merge1").manifest() is not None


def test_another_base_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """Same architecture, same shapes, other weights: only the identity can tell."""
    store = Store(f"file://{tmp_path / 'store'}")
    other = qwen3(tmp_path / "other", seed=9)
    lock, _, _ = trained(store, tmp_path, base=str(other))
    with pytest.raises(UserError, match=r"'phase1' was trained on .*base, and `base` is .*other") as caught:
        run(Stage(store, lock, "merge1"))
    assert caught.value.exit_code == 2
    assert store.list(lock.directory(store, "merge1").prefix) == []


def test_the_same_weights_under_another_path_are_the_same_base(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path / 'store'}")
    copy = qwen3(tmp_path / "copy")
    (copy / "generation_config.json").unlink()
    lock, _, _ = trained(store, tmp_path, base=str(copy))
    run(Stage(store, lock, "merge1"))
    assert lock.directory(store, "merge1").manifest() is not None


def test_an_adapter_remembers_its_base_by_weights(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path / 'store'}")
    base, other = qwen3(tmp_path / "base"), qwen3(tmp_path / "other", seed=9)
    adapter = adapt(base, tmp_path / "adapter", target_modules=["q_proj"])
    record = {"base": {"weights": weights_digest(open_checkpoint(base)), "name": "mine"}}
    (adapter / "hanforge.json").write_text(json.dumps(record))
    wrong = locked(store, {"merge1": {"kind": "merge", "adapter": str(adapter), "base": str(other)}}, "wrong")
    with pytest.raises(UserError, match="trained on 'mine'"):
        run(Stage(store, wrong, "merge1"))
    right = locked(store, {"merge1": {"kind": "merge", "adapter": str(adapter), "base": str(base)}}, "right")
    run(Stage(store, right, "merge1"))
    assert right.directory(store, "merge1").manifest() is not None


def test_a_base_that_nobody_names_is_asked_for(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path / 'store'}")
    adapter = adapt(qwen3(tmp_path / "base"), tmp_path / "adapter", target_modules=["q_proj"])
    lock = locked(store, {"merge1": {"kind": "merge", "adapter": str(adapter)}})
    with pytest.raises(UserError, match="`base` is left out"):
        run(Stage(store, lock, "merge1"))
