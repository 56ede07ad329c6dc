"""A small store with a whole chain in it, built by real commits: what the report, lineage, logs and why are tested on.

`prepare` really runs; the other stages commit parts, counts, measurements and metrics in the form their kinds write.
"""

import math
import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import orjson

from pipeline.recipe.load import load_recipe
from pipeline.scoring.asked import Asked, heldout, robot_questions
from pipeline.scoring.metrics import Reply, averaged, flat, marks
from pipeline.store import events
from pipeline.store.commit import Counts, StageDirectory
from pipeline.store.objects import Store
from pipeline.store.pins import resolve
from pipeline.store.progress import MetricsWriter
from pipeline.store.promotions import proof_key
from pipeline.store.runs import RunLock, create_run
from pipeline.store.stage import Stage
from pipeline.teacher.quality import Quality
from pipeline.teacher.validate import Measured
from pipeline.text import prepare
from pipeline.text.chinese import ChineseRule
from pipeline.text.thinking import join_thinking

HOSTILE = "</script><script>alert('먹힘')</script><img src=x onerror=alert(1)>"
RECIPE = """
name: tiny-vla
description: 로봇 질문에 한국어로 생각하고 답하는 작은 모델
inputs:
  raw: {description: 원본 대화}
  base: {}
  teacher: {}
stages:
  prepare:
    kind: prepare
    source: {input: raw}
    target_samples: 60
    heldout: {rows: 12}
    system_prompt: {mode: add, text: 당신은 로봇을 돕는 도우미입니다.}
  augment:
    kind: augment
    source: {stage: prepare}
    teacher: {model: {input: teacher}, served_model_name: EXAONE-4.0-1.2B}
    sample_ratio: 0.5
  validate: {kind: validate, source: {stage: augment}, limits: {min_pass_rate: 0.5}}
  phase1: {kind: train, base: {input: base}, data: {stage: prepare}, eval_data: {stage: prepare, output: heldout},
    learning_rate: 2e-5, num_train_epochs: 2, lora: {r: 16, lora_alpha: 32}}
  merge1: {kind: merge, adapter: {stage: phase1}}
  phase2: {kind: train, base: {stage: merge1}, data: {stage: validate}, eval_data: {stage: prepare, output: heldout},
    learning_rate: 1e-5, num_train_epochs: 3, lora: {r: 32, lora_alpha: 64}, chat_template: thinking}
  merge2: {kind: merge, adapter: {stage: phase2}}
  score-base: {kind: evaluate, model: {input: base}, data: {stage: prepare, output: heldout}, questions: agv}
  score1: {kind: evaluate, model: {stage: merge1}, data: {stage: prepare, output: heldout}, questions: agv}
  score2: {kind: evaluate, model: {stage: merge2}, data: {stage: prepare, output: heldout}, questions: agv}
  promote: {kind: promote, model: {stage: merge2}, scores: {stage: score2}, limits: {data.on.exact: {min: 0.5}}}
  serve: {kind: serve, promotion: {stage: promote}}
"""
CONFIG = {
    "model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1,
    "vocab_size": 64,
}  # fmt: skip
TOKENIZER = {  # a word or a run of marks is a token
    "version": "1.0", "truncation": {"max_length": 4, "stride": 0, "strategy": "LongestFirst", "direction": "Right"},
    "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None, "decoder": None, "model": {"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"},
}  # fmt: skip
ORDER = (
    "prepare", "augment", "validate", "phase1", "merge1", "phase2", "merge2", "score-base", "score1", "score2",
    "promote", "serve",
)  # fmt: skip


def new_run(folder: Path, recipe: str = RECIPE) -> tuple[Store, RunLock]:
    """A store with raw inputs and a run of which nothing is done."""
    store = Store(str(folder / "store"))
    _write_raw(folder / "store/inputs/raw")
    for name in ("base", "teacher"):
        (folder / f"store/inputs/{name}").mkdir(parents=True)
        (folder / f"store/inputs/{name}/config.json").write_text(orjson.dumps(CONFIG).decode())
        (folder / f"store/inputs/{name}/tokenizer.json").write_text(orjson.dumps(TOKENIZER).decode())
    (folder / "recipe.yaml").write_text(recipe, "utf-8")
    return store, create_run(store, resolve(store, load_recipe(str(folder / "recipe.yaml"))))


def build(folder: Path, until: str = "serve") -> tuple[Store, RunLock]:
    """A store in which every stage up to `until` is done."""
    store, lock = new_run(folder)
    for name in ORDER[: ORDER.index(until) + 1]:
        do(store, lock, name)
    return store, lock


def do(store: Store, lock: RunLock, name: str) -> None:
    """Do one stage, with its events, usage and log as a process leaves them."""
    worker = f"000-{name}"
    events.say(store, lock.run_id, name, "started", worker)
    directory, seed = lock.directory(store, name), ORDER.index(name)
    usage = {"record": "usage", "seconds": 3.0 + 41.7 * seed, "peak_bytes": (1 + seed % 4) << 29, "gpu_peak_bytes": 0}
    metrics = MetricsWriter(directory, worker)
    kind = lock.stages[name].kind
    if kind == "train":
        usage["gpu_peak_bytes"] = 26 << 30
        _write_metrics(metrics, lock.settings(name).learning_rate, 2.4 if name == "phase1" else 1.3, seed)
    MAKE[kind](store, lock, name)
    metrics.write({**usage, "version": "0.1.0", "commit": "c0ffee" * 6 + "abcd", "exit_code": 0})
    metrics.flush()
    store.put(
        directory.key("logs", f"{worker}.log"), f"2026-11-22 05:00:00,1 INFO hanforge.{name} began\nended\n".encode()
    )
    events.say(store, lock.run_id, name, "ended", worker, 0, "done", **usage)


def _write_raw(folder: Path) -> None:
    """Three files: maths with steps, robots, small talk; with duplicates, Chinese rows, broken lines, hostile text."""
    folder.mkdir(parents=True)
    chance = random.Random(7)
    sums = [(chance.randrange(2, 90), chance.randrange(2, 90)) for _ in range(45)]
    maths = [_row(f"{a} 더하기 {b}는 얼마인가요?", f"{a + b}입니다.", "orca_math_ko") for a, b in sums]
    robots = [
        _row(
            f"{number}번 통로에서 AGV가 장애물을 만나면 어떻게 하나요?",
            f"감속하고 멈춘 뒤 {number}번 관제에 알립니다.",
            "robot_qa",
        )
        for number in range(30)
    ]
    talk = [
        _row(f"{number}월에 어울리는 인사말을 써 주세요. {HOSTILE}", f"{number}월에도 건강하세요. {HOSTILE}", "talk")
        for number in range(1, 13)
    ]
    chinese = [
        _row(f"你好，请介绍一下你自己和你的工作 {n}", "我是一个人工智能助手，很高兴认识你。", "talk") for n in range(4)
    ]
    lines = {
        "orca_math_ko.jsonl": [*maths, *maths[:5]],
        "robot_qa.jsonl": [*robots, b'{"messages": [', b"\xff\xfe broken"],
        "talk.jsonl": [*talk, *chinese],
    }
    for name, rows in lines.items():
        (folder / name).write_bytes(b"\n".join(rows) + b"\n")


def _row(question: str, answer: str, source: str) -> bytes:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return orjson.dumps({"messages": turns, "source": source})


def _prepare(store: Store, lock: RunLock, name: str) -> None:
    prepare.run(Stage(store, lock, name))


def _rows(store: Store, lock: RunLock, name: str, output: str = "rows") -> list[dict[str, Any]]:
    from pipeline.reporting.rows import output_rows

    return [orjson.loads(line) for line in output_rows(store, lock, name, output).lines()]


def _augment(store: Store, lock: RunLock, name: str) -> None:
    directory, source = lock.directory(store, name), _rows(store, lock, "prepare")
    chosen = source[::2]
    with directory.write_rows("00000", "rows") as rows, directory.write_rows("00000", "rejects") as rejects:
        for number, row in enumerate(chosen):
            if number == 3:
                rejects.write(_reject(row, "truncated"))
            elif number == 4:
                rejects.write(_reject(row, "over_length"))
            else:
                rows.write(orjson.dumps(_augmented(row)))
    counts = Counts(len(chosen), len(chosen) - 2, {"truncated": 1}, {"over_length": 1})
    directory.commit_unit("00000", {"rows": [rows.committed()], "rejects": [rejects.committed()]}, counts)
    sample = {
        "available": {"single": len(source), "multi": 0, "broken": 0},
        "wanted": {"single": len(chosen), "multi": 0},
        "target": {"single": len(chosen), "multi": 0},
        "shortfall": {},
    }
    counted = Counter(outcomes=30, answers=29, failed=1, without_row=2, tagged=28, stepped=27, chinese=1, retries=3,
                      characters=29 * 60, prompt_tokens=29 * 50, completion_tokens=29 * 40)  # fmt: skip
    quality = Quality(counted, Counter(truncated=1, over_length=1), Counter({"1": 20, "2": 8, "16": 1}))
    sources = {source: Counter(row["source"] for row in chosen)[source] for source in {r["source"] for r in chosen}}
    by_source = {source: {"planned": count, "ok": count} for source, count in sources.items()}
    for number, reason in ((3, "truncated"), (4, "over_length")):
        counts_of = by_source[chosen[number]["source"]]
        counts_of |= {"ok": counts_of["ok"] - 1, reason: counts_of.get(reason, 0) + 1}
    measured = {"sample": sample, "teacher": "input:0f3c", "quality": quality.plain(), "sources": by_source}
    directory.commit_manifest(["00000"], measured)


def _augmented(row: dict[str, Any]) -> dict[str, Any]:
    *before, last = row["messages"]
    steps = f"1단계: 질문에서 무엇을 묻는지 살핍니다.\n2단계: {last['content']}\n3단계: 답을 다시 확인합니다."
    provenance = {
        "model": "EXAONE-4.0-1.2B",
        "identity": "input:0f3c",
        "request": "ab" * 16,
        "replaced": last["content"],
    }
    answer = {"role": "assistant", "content": join_thinking(steps, f"정답: {last['content']}")}
    return {**row, "messages": [*before, answer], "teacher": provenance}


def _reject(row: dict[str, Any], reason: str) -> bytes:
    record = {"reason": reason, "detail": "4096 tokens", "source": row["source"], "origin": row["origin"]}
    return orjson.dumps({**record, "line": orjson.dumps(row).decode()})


def _validate(store: Store, lock: RunLock, name: str) -> None:
    directory, source, measured = lock.directory(store, name), _rows(store, lock, "augment"), Measured()
    with directory.write_rows("00000", "rows") as rows, directory.write_rows("00000", "rejects") as rejects:
        for number, row in enumerate(source):
            reason = {5: "steps", 6: "chinese", 7: "steps"}.get(number, "")
            measured.note(row["source"], reason, None)
            measured.counts.update(["tagged", *([] if reason == "steps" else ["stepped"]), "answered"])
            measured.counts.update(["chinese"] if reason == "chinese" else [])
            rejects.write(_reject(row, reason)) if reason else rows.write(orjson.dumps(row))
    parts = {"rows": [rows.committed()], "rejects": [rejects.committed()]}
    counts = Counts(len(source), rows.rows, dict(measured.reasons))
    directory.commit_unit("00000", parts, counts, measured.plain())
    directory.commit_manifest(["00000"], measured.plain())


def _train(store: Store, lock: RunLock, name: str) -> None:
    directory = lock.directory(store, name)
    planned = len(_rows(store, lock, lock.settings(name).data.stage))
    measured = {
        "rows": planned - 1, "truncated_rows": 0, "untrained_turns": 0, "tokens": 41_235, "trained_tokens": 11_002,
        "length_median": 60, "length_95_percent": 110, "length_max": 140, "planned": planned,
        "rejected": {"over_long": 1}, "steps": 200, "precision": "bf16", "eval_loss": 0.42, "eval_rows": 12,
    }  # fmt: skip
    with directory.write_rows("train", output="rejects") as writer:
        writer.write(_reject({"source": "talk", "origin": "talk.jsonl:3"}, "over_long"))
    outputs = {"adapter": _folder(directory, "train", "adapter_config.json"), "rejects": [writer.committed()]}
    directory.commit_unit("train", outputs, Counts(planned, planned - 1, {"over_long": 1}), measured)
    directory.commit_manifest(["train"], measured)


def _write_metrics(metrics: MetricsWriter, rate: float, start: float, seed: int) -> None:
    chance, steps = random.Random(seed), 200
    for step in range(5, steps + 1, 5):
        loss = 0.35 + start * math.exp(-step / 50) + chance.gauss(0, 0.03)
        lr = rate * (step / 20 if step < 20 else 0.5 + 0.5 * math.cos(math.pi * (step - 20) / (steps - 20)))
        metrics.write(
            {"step": step, "loss": loss, "learning_rate": lr, "grad_norm": 1.0, "tokens_per_second": 6000.0 + step}
        )
        if step % 50 == 0:
            metrics.write({"step": step, "eval_loss": 0.42 + start * math.exp(-step / 55)})


def _merge(store: Store, lock: RunLock, name: str) -> None:
    directory = lock.directory(store, name)
    tensors = Counts(25, 25)
    directory.commit_unit("model", {"model": _folder(directory, "model", "config.json")}, tensors)
    directory.commit_manifest(["model"])


def _folder(directory: StageDirectory, unit: str, name: str) -> list[Any]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_text("{}")
        return directory.write_directory(unit, Path(folder))


def _evaluate(store: Store, lock: RunLock, name: str) -> None:
    """Predictions on the held-out rows and the robot questions, in both modes; later models answer better."""
    directory, skill = lock.directory(store, name), {"score-base": 0.1, "score1": 0.6, "score2": 0.9}[name]
    asked = [*heldout(_rows(store, lock, "prepare", "heldout"), None, "heldout"), *robot_questions("agv", "")]
    predictions = [_prediction(item, thinking, skill, n) for thinking in (False, True) for n, item in enumerate(asked)]
    with directory.write_rows("00000", "predictions") as writer:
        for row in predictions:
            writer.write(orjson.dumps(row))
    averages = averaged(predictions)
    counts = Counts(len(predictions), len(predictions))
    directory.commit_unit("00000", {"scores": [], "predictions": [writer.committed()]}, counts)
    directory.commit_manifest(["00000"], {"scores": flat(averages), "averages": averages})


def _prediction(asked: Asked, thinking: bool, skill: float, number: int) -> dict[str, Any]:
    right = (number * 37 % 100) / 100 < skill
    good = asked.expected or "경로를 멈추고 정지한 뒤 관제에 보고합니다."
    answer = good if right else f"모르겠습니다. {HOSTILE}"
    reply = Reply(join_thinking("1단계: 생각합니다.", answer) if thinking else answer, completion_tokens=20)
    return {
        "collection": asked.collection, "id": asked.id, "source": asked.source, "messages": asked.messages,
        "expected": asked.expected, "thinking": thinking, "answer": answer,
        "reasoning": "1단계: 생각합니다." if thinking else None, "marks": marks(asked, reply, thinking, ChineseRule()),
    }  # fmt: skip


def _promote(store: Store, lock: RunLock, name: str) -> None:
    directory, scores = lock.directory(store, name), lock.directory(store, "score2").manifest()
    record = {"recipe": lock.recipe.name, "n": 1, "run": lock.run_id, "stage": "merge2", "by": name}
    store.create(f"promotions/{lock.recipe.name}/1.json", orjson.dumps(record))
    directory.commit_unit("promotion", {}, Counts())
    directory.commit_manifest(["promotion"], {**record, "scores": scores.measurements["scores"] if scores else {}})


def _serve(store: Store, lock: RunLock, name: str) -> None:
    directory = lock.directory(store, name)
    directory.commit_unit("proof", {}, Counts())
    measured = {
        "promotion": 1,
        "question": "무엇을 하나요?",
        "reasoning": "1단계: 소개합니다.",
        "answer": f"안녕하세요. {HOSTILE}",
    }
    store.create(proof_key(directory, 1), orjson.dumps(measured))
    directory.commit_manifest(["proof"], measured)


MAKE = {
    "prepare": _prepare, "augment": _augment, "validate": _validate, "train": _train, "merge": _merge,
    "evaluate": _evaluate, "promote": _promote, "serve": _serve,
}  # fmt: skip
