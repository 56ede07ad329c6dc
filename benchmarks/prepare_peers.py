"""What others do with the raw rows of the prepare benchmark, each as its own documentation has it.

Runs in the benchmark's own environment: python -m benchmarks.prepare_peers WAY RAW OUT TARGET WORKERS
"""

import json
import random
import re
import sys
from pathlib import Path
from typing import Any

SYSTEM = {"role": "system", "content": "당신은 한국어로 정확하게 답하는 도우미입니다."}
HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
PACKAGES = ("datatrove[io]==0.10.1", "regex", "numpy", "datasets==5.2.0", "orjson")


def is_wanted(messages: list[dict[str, Any]]) -> bool:
    """The schema, and no Han character in any turn."""
    if [message["role"] for message in messages] != ["user", "assistant"]:
        return False
    return not any(HAN.search(message["content"]) for message in messages)


def stdlib(raw: Path, out: Path, target: int, workers: int) -> None:
    """What a careful script does: json and re, one process, everything in memory."""
    seen: set[str] = set()
    kept = []
    for path in sorted(raw.glob("*.jsonl")):
        for line in path.open(encoding="utf-8"):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if is_wanted(row["messages"]):
                key = json.dumps(row["messages"])
                if key not in seen:
                    seen.add(key)
                    kept.append(row)
    random.Random(42).shuffle(kept)
    with (out / "rows.jsonl").open("w", encoding="utf-8") as file:
        for row in kept[:target]:
            row["messages"].insert(0, SYSTEM)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def hf_datasets(raw: Path, out: Path, target: int, workers: int) -> None:
    """Hugging Face datasets: load, filter, map, to_json."""
    import datasets

    files = [str(path) for path in sorted(raw.glob("*.jsonl"))]
    rows = datasets.load_dataset("json", data_files=files, split="train", cache_dir=str(out / "cache"))
    rows = rows.filter(lambda row: is_wanted(row["messages"]), num_proc=workers)
    rows = rows.map(lambda row: {"messages": [SYSTEM, *row["messages"]]}, num_proc=workers)
    rows.shuffle(seed=42).select(range(min(target, len(rows)))).to_json(str(out / "rows.jsonl"), force_ascii=False)


def _document(self: Any, row: dict[str, Any], path: str, number: int) -> dict[str, Any]:
    return {"text": row["messages"][-1]["content"], "id": f"{path}/{number}", "metadata": row}


def _row(self: Any, document: Any) -> dict[str, Any]:
    return {"messages": [SYSTEM, *document.metadata["messages"]], "source": document.metadata["source"]}


def _keep(document: Any) -> bool:
    return is_wanted(document.metadata["messages"])


def datatrove(raw: Path, out: Path, target: int, workers: int) -> None:
    """datatrove: JSONL reader, filter, JSONL writer, a task a file."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.filters import LambdaFilter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    steps = [
        JsonlReader(str(raw), adapter=_document, glob_pattern="*.jsonl"),
        LambdaFilter(_keep),
        JsonlWriter(str(out / "rows"), adapter=_row, compression="zstd"),
    ]
    LocalPipelineExecutor(steps, tasks=10, workers=workers, logging_dir=str(out / "logs")).run()


if __name__ == "__main__":
    way, raw, out, target, workers = sys.argv[1:]
    globals()[way](Path(raw), Path(out), int(target), int(workers))
