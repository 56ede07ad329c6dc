"""A whole chain as processes with a real vLLM on the CPU: teacher, evaluation and serving each start their own.

Nothing is learnt here: the model's weights are a script, so that every answer can be compared letter by letter.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from pipeline.store.objects import Store
from pipeline.store.runs import RunLock, find_run
from pipeline.store.shards import part_lines
from tests.engine.tiny import scripted_qwen3

STEPS, ANSWER = "1단계: 모두 더합니다.\n2단계: 다시 셉니다.", "셋입니다."
RECIPE = """\
name: whole
inputs: {raw: {}, base: {}}
stages:
  prepare: {kind: prepare, source: {input: raw}, heldout: {rows: 10}, workers: 1}
  augment:
    kind: augment
    source: {stage: prepare}
    teacher: {model: {input: base}, engine: &engine {max_model_len: 512, dtype: float32, max_num_seqs: 16}}
    sample_ratio: 1.0
    singleturn_ratio: null
    prompt: "{question}"
    sampling: {temperature: 0.0, top_p: null, max_tokens: 16}
  train:
    kind: train
    profile: cpu-core
    base: {input: base}
    data: {stage: augment}
    chat_template: thinking
    max_length: 512
    max_steps: 3
    learning_rate: 1e-4
    gradient_accumulation_steps: 1
    gradient_checkpointing: false
    lora: {r: 4}
    report_to: []
  merge: {kind: merge, adapter: {stage: train}}
  evaluate:
    kind: evaluate
    model: {stage: merge}
    data: {stage: prepare, output: heldout}
    training_data: [{stage: augment}]
    limit: 8
    thinking: "on"
    max_new_tokens: 16
    engine: *engine
  promote: {kind: promote, model: {stage: merge}, scores: {stage: evaluate}}
  serve:
    {kind: serve, promotion: {stage: promote}, engine: *engine, question: 몇 개입니까?, enable_thinking: true,
     max_tokens: 16}
"""


@pytest.mark.vllm
def test_a_chain_with_a_real_vllm_ends_in_a_proof_of_promotion_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three starts of vLLM, 100 s each at nice 19 beside other work on two cores: 438 s in all, not yet timed idle."""
    monkeypatch.setenv("HANFORGE_CACHE", str(tmp_path / "cache"))
    _write_inputs(tmp_path / "store" / "inputs")
    (tmp_path / "whole.yaml").write_text(RECIPE, "utf-8")
    words = [sys.executable, "-m", "jobs", "run", str(tmp_path / "whole.yaml"), "--store", f"file://{tmp_path}/store"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    store = Store(f"file://{tmp_path}/store")
    lock = find_run(store, "latest")
    assert all(lock.directory(store, name).manifest() for name in lock.stages)

    rows = _rows(store, lock, "augment", "rows")
    assert len(rows) == 30 and {row["teacher"]["model"] for row in rows} == {"teacher"}
    assert {row["messages"][-1]["content"] for row in rows} == {f"<think>\n{STEPS}\n</think>\n\n{ANSWER}"}
    assert all(row["teacher"]["replaced"].startswith("답은 ") and row["origin"] for row in rows)

    merged = lock.directory(store, "merge").manifest()
    assert merged is not None and merged.measurements["changed"] > 0
    assert merged.measurements["adapter"] == f"stage:{lock.stages['train'].fingerprint}/adapter"
    predictions = _rows(store, lock, "evaluate", "predictions")
    assert len(predictions) == 8
    assert {(row["reasoning"], _bare(row["answer"])) for row in predictions} == {(STEPS, ANSWER)}

    promotion = json.loads(store.read("promotions/whole/1.json"))
    assert (promotion["n"], promotion["run"], promotion["stage"]) == (1, lock.run_id, "merge")
    proof = json.loads(store.read(lock.directory(store, "serve").key("proofs", "1.json")))
    assert proof["promotion"] == promotion
    assert (proof["reasoning"], _bare(proof["answer"])) == (STEPS, ANSWER)


def _write_inputs(folder: Path) -> None:
    """40 sums, and one scripted checkpoint that is teacher and student."""
    (folder / "raw").mkdir(parents=True)
    rows = [(f"{n} 더하기 {n + 1}은 얼마입니까?", f"답은 {2 * n + 1}입니다.") for n in range(40)]
    turns = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}] for question, answer in rows
    ]
    (folder / "raw" / "sums.jsonl").write_bytes(b"\n".join(orjson.dumps({"messages": one}) for one in turns))
    scripted_qwen3(folder / "base", [STEPS, "</think>", f"\n\n최종 답변: {ANSWER}"])


def _rows(store: Store, lock: RunLock, stage: str, output: str) -> list[dict[str, Any]]:
    manifest = lock.directory(store, stage).manifest()
    assert manifest is not None
    return [orjson.loads(line) for part in manifest.outputs[output] for line in part_lines(store, part)]


def _bare(answer: str) -> str:
    return answer.removeprefix("최종 답변: ")
