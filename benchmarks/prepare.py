"""prepare beside its peers on the same rows in the same run: python -m benchmarks.prepare [--rows N] [--workers 2]

Synthetic Korean ChatML in ten files: 3 % Chinese, 1 % broken, 2 % duplicates, 2 % written with \\u escapes. Every way
checks the schema, drops Chinese and exact duplicates, samples 40 % and adds a system prompt; `datasets` gets clean
lines only, since one bad line ends it, and neither deduplicates nor samples. `ratio` is our time divided by theirs.
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SYSTEM = "당신은 한국어로 정확하게 답하는 도우미입니다."
WORDS = (  # noqa: SIM905
    "로봇 창고 이동 경로 장애물 질문 대답 설명 한국어 문장 예를 들어 그러므로 계산 결과 속도 거리 시간 지도 명령 안전"
).split(" ")


def generate(folder: Path, rows: int, clean: bool) -> int:
    """Write ten files and give their bytes. The same arguments give the same files."""
    rng = random.Random(11)
    folder.mkdir(parents=True, exist_ok=True)
    files = [(folder / f"source{number}.jsonl").open("w", encoding="utf-8") for number in range(10)]
    line = "{}"
    for number in range(rows):
        kind = rng.random()
        if not (kind < 0.02 and number):  # else: the previous line again
            text = " ".join(rng.choices(WORDS, k=rng.randrange(20, 220)))
            answer = " ".join(rng.choices(WORDS, k=rng.randrange(40, 300)))
            if kind < 0.05 and not clean:
                answer += " 今天天气很好，我们一起去公园玩吧。"
            messages = [{"role": "user", "content": f"{text} {number}"}, {"role": "assistant", "content": answer}]
            line = json.dumps({"messages": messages, "source": f"s{number % 7}"}, ensure_ascii=0.05 <= kind < 0.07)
            if 0.07 <= kind < 0.08 and not clean:
                line = line[: len(line) // 2]
        files[rng.randrange(10)].write(line + "\n")
    for file in files:
        file.close()
    return sum(path.stat().st_size for path in folder.iterdir())


def ours(raw: Path, out: Path, target: int, workers: int) -> None:
    """Our stage over a file:// store."""
    from pipeline.recipe.models import Recipe
    from pipeline.store import runs
    from pipeline.store.objects import Store
    from pipeline.store.stage import Stage
    from pipeline.text import prepare

    settings = {"target_samples": target, "system_prompt": {"text": SYSTEM}, "workers": workers}
    stage = {"kind": "prepare", "source": {"input": "raw"}, **settings}
    recipe = Recipe(name="bench", inputs={"raw": {"url": str(raw)}}, stages={"prepare": stage})
    store = Store(str(out))
    prepare.run(Stage(store, runs.create_run(store, runs.resolve(store, recipe)), "prepare"))


def stdlib(raw: Path, out: Path, target: int, workers: int) -> None:
    """What a careful script does: json and re, one process, everything in memory."""
    import re

    han = re.compile("[\u4e00-\u9fff]")
    seen: set[str] = set()
    kept = []
    for path in sorted(raw.iterdir()):
        for line in path.open(encoding="utf-8"):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            messages = row["messages"]
            if [m["role"] for m in messages] != ["user", "assistant"] or han.search(messages[1]["content"]):
                continue
            key = json.dumps(messages)
            if key not in seen:
                seen.add(key)
                kept.append(row)
    random.Random(42).shuffle(kept)
    with (out / "rows.jsonl").open("w", encoding="utf-8") as file:
        for row in kept[:target]:
            row["messages"].insert(0, {"role": "system", "content": SYSTEM})
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def hf_datasets(raw: Path, out: Path, target: int, workers: int) -> None:
    """Hugging Face datasets: load, filter, map, to_json."""
    import re

    import datasets

    han = re.compile("[\u4e00-\u9fff]")
    files = [str(path) for path in sorted(raw.iterdir())]
    rows = datasets.load_dataset("json", data_files=files, split="train", cache_dir=str(out / "cache"))
    rows = rows.filter(lambda row: not any(han.search(turn["content"]) for turn in row["messages"]), num_proc=workers)
    system = {"role": "system", "content": SYSTEM}
    rows = rows.map(lambda row: {"messages": [system, *row["messages"]]}, num_proc=workers)
    rows.shuffle(seed=42).select(range(min(target, len(rows)))).to_json(str(out / "rows.jsonl"), force_ascii=False)


WAYS = {"hanforge prepare": ours, "json + re, one process": stdlib, "HF datasets (clean lines)": hf_datasets}


def measured(way: str, raw: Path, target: int, workers: int) -> tuple[float, float, float]:
    """Seconds, CPU seconds and peak memory (MB, proportional set size with children) of one way, start-up included."""
    import psutil

    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "benchmarks.prepare", "--way", way, "--raw", str(raw), "--out", out]
        command += ["--target", str(target), "--workers", str(workers)]
        began, peak = time.monotonic(), 0
        cpu: dict[int, float] = {}  # by process id, as last seen: workers may end before their parent
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):  # it may end between two looks
                family = [watched, *watched.children(recursive=True)]
                peak = max(peak, sum(member.memory_full_info().pss for member in family))
                cpu.update({member.pid: sum(member.cpu_times()[:2]) for member in family})
            time.sleep(0.1)
        if process.returncode:
            raise SystemExit(f"{way} ended with exit code {process.returncode}")
        return time.monotonic() - began, sum(cpu.values()), peak / 1e6


def main() -> None:
    """Generate the rows, run every way on them, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    for name in ("way", "raw", "out", "target"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        WAYS[options.way](Path(options.raw), Path(options.out), int(options.target), options.workers)
        return
    with tempfile.TemporaryDirectory() as folder:
        sizes = {clean: generate(Path(folder) / f"clean-{clean}", options.rows, clean) for clean in (False, True)}
        print(f"{options.rows:,} rows, {sizes[False] / 1e6:.0f} MB in 10 files, {options.workers} processes")
        print(f"{'way':28} {'rows/s':>9} {'MB/s':>7} {'seconds':>8} {'CPU s':>7} {'peak MB':>8} {'ratio':>6}")
        first = 0.0
        for way in options.ways:
            clean = "clean" in way
            raw = Path(folder) / f"clean-{clean}"
            seconds, cpu, peak = measured(way, raw, options.rows * 2 // 5, options.workers)
            first = first or seconds
            speed = f"{options.rows / seconds:9,.0f} {sizes[clean] / 1e6 / seconds:7.1f} {seconds:8.1f} {cpu:7.1f}"
            print(f"{way:28} {speed} {peak:8.0f} {first / seconds:6.2f}", flush=True)


if __name__ == "__main__":
    main()
