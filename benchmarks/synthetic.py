"""Raw Korean ChatML for benchmarks: ten files, the same bytes for the same arguments, generated on every core.

3 % of the rows hold a Chinese sentence, 1 % are cut off, 2 % are repeated across files, 2 % are written with \\u
escapes and a third of the answers have several paragraphs (\\n escapes). A clean set leaves out the Chinese and the
cut ones.
"""

import json
import multiprocessing
import os
import random
from functools import partial
from pathlib import Path

FILES = 10
SYSTEM = "당신은 한국어로 정확하게 답하는 도우미입니다."
CHINESE = " 今天天气很好，我们一起去公园玩吧。"
_SHARED = 2000  # lines that the files repeat


def generate(folder: Path, rows: int, words: int = 240, clean: bool = False) -> int:
    """Write ten files with `rows` rows of about `words` words in all (240: 2.2 KB a row) and give their bytes.

    A folder that the same arguments filled before is left as it is.
    """
    stamp = folder / ".complete"
    arguments = json.dumps([rows, words, clean, "v1"])
    if not (stamp.exists() and stamp.read_text() == arguments):
        folder.mkdir(parents=True, exist_ok=True)
        with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
            pool.map(partial(_write_file, folder, rows // FILES, words, clean), range(FILES), chunksize=1)
        stamp.write_text(arguments)
    return sum(path.stat().st_size for path in folder.glob("*.jsonl"))


def _write_file(folder: Path, rows: int, words: int, clean: bool, number: int) -> None:
    vocabulary = _vocabulary()
    common = random.Random(10)
    shared = [_line(common, vocabulary, n, words, False, 0.5) for n in range(_SHARED)]
    rng = random.Random(100 + number)
    with (folder / f"source{number}.jsonl").open("w", encoding="utf-8") as file:
        for row in range(rows):
            kind = rng.random()
            if kind < 0.02:
                line = rng.choice(shared)
            else:
                line = _line(rng, vocabulary, number * rows + row, words, 0.02 <= kind < 0.05 and not clean, kind)
            cut = 0.07 <= kind < 0.08 and not clean
            file.write((line[: len(line) // 2] if cut else line) + "\n")


def _line(rng: random.Random, vocabulary: list[str], number: int, words: int, chinese: bool, kind: float) -> str:
    question = " ".join(rng.choices(vocabulary, k=rng.randrange(words // 14, words * 5 // 8)))
    spoken = rng.choices(vocabulary, k=rng.randrange(words // 7, words * 17 // 14))
    if number % 3 == 0:
        spoken[12::24] = [word + ".\n" for word in spoken[12::24]]
    answer = " ".join(spoken) + (CHINESE if chinese else "")
    messages = [{"role": "user", "content": f"{question} {number}?"}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages, "source": f"s{number % 7}"}, ensure_ascii=0.05 <= kind < 0.07)


def _vocabulary() -> list[str]:
    """Words of one to four syllables; frequent ones stand in it several times."""
    rng = random.Random(1)
    syllables = [chr(rng.randrange(0xAC00, 0xD7A4)) for _ in range(600)]
    words = ["".join(rng.choices(syllables, k=rng.randrange(1, 5))) for _ in range(4000)]
    return words + words[:1000] * 3 + words[:100] * 30
