"""Rows for SmolLM: Korean number words between 1000 and 9999, and the figure.

python examples/smollm/generate.py FOLDER
"""

import json
import random
import sys
from pathlib import Path

SEED = 7
DIGITS = ("", "일", "이", "삼", "사", "오", "육", "칠", "팔", "구")
UNITS = ("천", "백", "십", "")
ENDING_IN_VOWEL = "이사오구"


def in_words(number: int) -> str:
    """Example: 6411 -> "육천사백십일"; a one before a unit is not said."""
    words = []
    for digit, unit in zip(f"{number:04d}", UNITS, strict=True):
        if digit != "0":
            words.append((DIGITS[int(digit)] if digit != "1" or not unit else "") + unit)
    return "".join(words)


def question(number: int) -> str:
    """Example: 6411 -> "'육천사백십일'을 숫자로 쓰면?"."""
    words = in_words(number)
    return f"'{words}'{'를' if words[-1] in ENDING_IN_VOWEL else '을'} 숫자로 쓰면?"


def write_rows(folder: Path, rows: int, seed: int = SEED) -> Path:
    """Write `rows` distinct rows to `numbers/korean_numbers.jsonl` under `folder`."""
    numbers = random.Random(seed).sample(range(1000, 10_000), rows)
    path = folder / "numbers" / "korean_numbers.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for number in numbers:
            turns = [("user", question(number)), ("assistant", str(number))]
            messages = [{"role": role, "content": content} for role, content in turns]
            file.write(json.dumps({"messages": messages, "source": "korean_numbers"}, ensure_ascii=False) + "\n")
    return path


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/smollm/generate.py FOLDER")
    print(write_rows(Path(sys.argv[1]), 2200))
