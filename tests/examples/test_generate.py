"""The demos' generators: the same bytes from a seed, right answers, every kind of trouble for prepare."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

EXAMPLES = Path(__file__).parents[2] / "examples"
STEP = re.compile(r"(\d)단계: (\d)개(?:에서|에) (\d)개를 (더하면|빼면) (\d)개입니다\.")


def load(path: str) -> ModuleType:
    """An example script as a module, under a name of its own."""
    name = "example_" + path.replace("/", "_").removesuffix(".py")
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


demo, smollm = load("demo/generate.py"), load("smollm/generate.py")


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in demo.write_inputs(tmp_path / "a", 60, 30)]
    second = [path.read_bytes() for path in demo.write_inputs(tmp_path / "b", 60, 30)]
    other = [path.read_bytes() for path in demo.write_inputs(tmp_path / "c", 60, 30, seed=8)]
    assert first == second
    assert all(one != another for one, another in zip(first, other, strict=True))


def test_worked_examples_reason_to_their_answer() -> None:
    for line in demo.worked_lines(300, seed=3):
        content = json.loads(line)["messages"][-1]["content"]
        reasoning, answer = re.fullmatch(r"<think>\n(.*)\n</think>\n\n(.*)", content, re.DOTALL).groups()
        steps = STEP.findall(reasoning)
        assert len(steps) == len(reasoning.splitlines()) or reasoning.startswith("1단계: 처음 그대로 ")
        for number, (place, before, move, word, after) in enumerate(steps, 1):
            assert int(place) == number
            assert int(after) == int(before) + (int(move) if word == "더하면" else -int(move))
        assert re.search(r"(\d)개입니다\.$", reasoning)[1] == re.search(r"(\d)개입니다\.$", answer)[1]


def test_raw_lines_hold_every_trouble() -> None:
    lines = demo.raw_lines(demo.AMR, 600, seed=1)
    assert len(lines) == 600
    assert len(lines) - len(set(lines)) >= 24  # duplicates
    assert sum("托盘".encode() in line for line in lines) == 24
    rows = []
    for line in set(lines):
        try:
            rows.append(json.loads(line))
        except (UnicodeDecodeError, json.JSONDecodeError):
            continue
    assert len(rows) < len(set(lines))  # lines that are not JSON
    assert any("messages" not in row for row in rows)
    assert any(row["messages"][-1]["role"] == "user" for row in rows if "messages" in row)
    assert sum(len(row.get("messages", ())) == 4 for row in rows) > 200  # conversations


def test_numbers_in_words() -> None:
    assert smollm.question(6411) == "'육천사백십일'을 숫자로 쓰면?"
    assert [smollm.in_words(number) for number in (1000, 1111, 2050)] == ["천", "천백십일", "이천오십"]
    assert smollm.question(1002).startswith("'천이'를 ")
