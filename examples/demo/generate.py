"""The demo's raw data: questions about what a robot or a shelf holds after a few moves, in Korean ChatML.

Everything follows from one seed, byte for byte: three sources (plain, gzip, zstd) with multi-turn rows, duplicates,
Chinese rows and broken lines, and worked examples with reasoning for the teacher. Counts stay between 0 and 9.

    python examples/demo/generate.py FOLDER [--seed 7]
"""

import argparse
import gzip
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

SEED = 7
COUNTS = ("", "한", "두", "세", "네", "다섯", "여섯", "일곱", "여덟", "아홉")  # Korean counting words, before 개
MOST = 9
LARGEST_MOVE = 5
ORDER = {1: ("",), 2: ("먼저 ", "다음에 "), 3: ("먼저 ", "다음에 ", "끝으로 ")}  # said before each of several moves

Row = dict[str, Any]


@dataclass(frozen=True)
class Scene:
    """How one source tells its story. `add` and `take`: the verb between moves, and at the end of the sentence."""

    source: str
    item: str
    topic: str
    openings: tuple[str, ...]
    add: tuple[str, str]
    take: tuple[str, str]
    endings: tuple[str, ...]
    chinese: tuple[str, str]


AGV = Scene(
    source="agv_load_data",
    item="상자를",
    topic="상자는",
    openings=("AGV {n}호에 상자가 {count} 개 실려 있습니다.", "AGV {n}호가 상자를 {count} 개 싣고 있습니다."),
    add=("더 싣고", "더 실었습니다."),
    take=("내리고", "내렸습니다."),
    endings=("이제 상자는 몇 개입니까?", "상자는 모두 몇 개입니까?"),
    chinese=("{n}号搬运车上有{a}个箱子，又装了{b}个箱子。现在一共有几个箱子？", "现在一共有{sum}个箱子。"),
)
SHELF = Scene(
    source="shelf_stock_data",
    item="부품을",
    topic="부품은",
    openings=("{n}번 선반에 부품이 {count} 개 있습니다.", "{n}번 선반에는 부품이 {count} 개 놓여 있습니다."),
    add=("더 넣고", "더 넣었습니다."),
    take=("꺼내고", "꺼냈습니다."),
    endings=("이제 부품은 몇 개입니까?", "선반의 부품은 몇 개입니까?"),
    chinese=("{n}号货架上有{a}个零件，又放了{b}个零件。货架上有几个零件？", "货架上有{sum}个零件。"),
)
AMR = Scene(
    source="amr_dialogue_data",
    item="팔레트를",
    topic="팔레트는",
    openings=("AMR {n}호에 팔레트가 {count} 개 있습니다.", "AMR {n}호가 팔레트 {count} 개를 나르고 있습니다."),
    add=("더 싣고", "더 실었습니다."),
    take=("내리고", "내렸습니다."),
    endings=("이제 팔레트는 몇 개입니까?", "팔레트는 모두 몇 개입니까?"),
    chinese=("{n}号机器人运着{a}个托盘，又装了{b}个托盘。现在有几个托盘？", "现在有{sum}个托盘。"),
)
SCENES = (AGV, SHELF, AMR)


@dataclass(frozen=True)
class Story:
    """A question, the count before it, and its moves (+2 adds two, -3 takes three)."""

    scene: Scene
    question: str
    start: int
    moves: tuple[int, ...]

    @property
    def end(self) -> int:
        """How many there are after the last move."""
        return self.start + sum(self.moves)

    @property
    def answer(self) -> str:
        """Example: "상자는 7개입니다."."""
        return f"{self.scene.topic} {self.end}개입니다."

    @property
    def reasoning(self) -> str:
        """One line a move: "1단계: 5개에 2개를 더하면 7개입니다."; without a move "1단계: 처음 그대로 5개입니다."."""
        if not self.moves:
            return f"1단계: 처음 그대로 {self.start}개입니다."
        lines, now = [], self.start
        for number, move in enumerate(self.moves, 1):
            step = f"{now}개에 {move}개를 더하면" if move > 0 else f"{now}개에서 {-move}개를 빼면"
            now += move
            lines.append(f"{number}단계: {step} {now}개입니다.")
        return "\n".join(lines)


def draw_moves(random_: random.Random, start: int, number: int) -> tuple[int, ...]:
    """`number` moves of 1 to 5 up or down that keep the count between 0 and 9."""
    moves, now = [], start
    for _ in range(number):
        allowed = [move for move in range(-LARGEST_MOVE, LARGEST_MOVE + 1) if move and 0 <= now + move <= MOST]
        move = random_.choice(allowed)
        moves.append(move)
        now += move
    return tuple(moves)


def told(scene: Scene, moves: tuple[int, ...]) -> str:
    """The moves as one sentence. Example: (2, -1) -> "먼저 두 개를 더 싣고 다음에 한 개를 내렸습니다."."""
    last = len(moves) - 1
    return " ".join(
        f"{ORDER[len(moves)][place]}{COUNTS[abs(move)]} 개를 {(scene.add if move > 0 else scene.take)[place == last]}"
        for place, move in enumerate(moves)
    )


def draw_story(random_: random.Random, scene: Scene, most_moves: int = 3) -> Story:
    """A question that stands by itself, with 0 to `most_moves` moves."""
    start = random_.randint(1, MOST)
    moves = draw_moves(random_, start, random_.randint(0, most_moves))
    opening = random_.choice(scene.openings).format(n=random_.randint(1, 30), count=COUNTS[start])
    sentences = [opening, told(scene, moves), random_.choice(scene.endings)]
    return Story(scene, " ".join(filter(None, sentences)), start, moves)


def continued(random_: random.Random, story: Story) -> Story:
    """A next question in the same conversation, about one more move."""
    moves = draw_moves(random_, story.end, 1)
    question = f"이어서 {told(story.scene, moves)} {random_.choice(story.scene.endings)}"
    return Story(story.scene, question, story.end, moves)


def conversation(*stories: Story, with_reasoning: bool = False) -> Row:
    """The stories as ChatML; the last answer with its reasoning in tags when wanted."""
    messages = []
    for story in stories:
        last = with_reasoning and story is stories[-1]
        answer = f"<think>\n{story.reasoning}\n</think>\n\n{story.answer}" if last else story.answer
        messages += [{"role": "user", "content": story.question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "source": stories[0].scene.source}


def draw_row(random_: random.Random, scene: Scene, with_reasoning: bool = False) -> Row:
    """One row; in the AMR source two of three are conversations of two questions."""
    if scene is AMR and random_.random() < 2 / 3:
        first = draw_story(random_, scene, most_moves=1)
        return conversation(first, continued(random_, first), with_reasoning=with_reasoning)
    return conversation(draw_story(random_, scene), with_reasoning=with_reasoning)


def chinese_row(random_: random.Random, scene: Scene) -> Row:
    """A row in Chinese, as they turn up in scraped data."""
    a, b = random_.randint(1, 4), random_.randint(1, 5)
    question, answer = (text.format(n=random_.randint(1, 30), a=a, b=b, sum=a + b) for text in scene.chinese)
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        "source": scene.source,
    }


def encoded(row: Row) -> bytes:
    """A row as one line of JSON without the newline."""
    return json.dumps(row, ensure_ascii=False).encode()


def _without_answer(row: Row) -> bytes:
    return encoded({**row, "messages": row["messages"][:1]})


def _empty_turn(row: Row) -> bytes:
    return encoded({**row, "messages": [*row["messages"][:-1], {"role": "assistant", "content": "  "}]})


def _unknown_role(row: Row) -> bytes:
    return encoded({**row, "messages": [{"role": "robot", "content": "삐"}, *row["messages"]]})


BREAKS: tuple[Callable[[Row], bytes], ...] = (
    lambda row: encoded(row)[:-9],
    lambda row: "상자는 몇 개입니까".encode("euc-kr"),
    lambda row: encoded({"text": row["messages"][0]["content"]}),
    _without_answer,
    _empty_turn,
    _unknown_role,
)


def raw_lines(scene: Scene, rows: int, seed: int) -> list[bytes]:
    """`rows` lines of a source: 90 % distinct rows, 4 % duplicates, 4 % Chinese, 2 % broken, shuffled."""
    random_ = random.Random(f"{seed}/{scene.source}")
    duplicates, chinese, broken = rows * 4 // 100, rows * 4 // 100, rows * 2 // 100
    good: dict[bytes, Row] = {}
    while len(good) < rows - duplicates - chinese - broken:
        row = draw_row(random_, scene)
        good.setdefault(encoded(row), row)
    lines = list(good)
    lines += random_.sample(lines, duplicates)
    lines += [encoded(chinese_row(random_, scene)) for _ in range(chinese)]
    lines += [BREAKS[number % len(BREAKS)](random_.choice(list(good.values()))) for number in range(broken)]
    random_.shuffle(lines)
    return lines


def worked_lines(rows: int, seed: int) -> Iterator[bytes]:
    """Worked examples for the teacher, the sources in turn, each answer with its reasoning."""
    random_ = random.Random(f"{seed}/worked")
    for number in range(rows):
        row = draw_row(random_, SCENES[number % len(SCENES)], with_reasoning=True)
        yield encoded({**row, "source": "worked_examples"})


def write_inputs(folder: Path, rows_per_source: int = 1500, worked_rows: int = 2000, seed: int = SEED) -> list[Path]:
    """Write `raw/` and `worked-examples/` under `folder`, the same bytes for the same arguments; returns the files."""
    agv, shelf, amr = (b"\n".join(raw_lines(scene, rows_per_source, seed)) + b"\n" for scene in SCENES)
    worked = b"\n".join(worked_lines(worked_rows, seed)) + b"\n"
    contents = {
        "raw/agv_load_data.jsonl": agv,
        "raw/shelf_stock_data.jsonl.gz": gzip.compress(shelf, mtime=0),
        "raw/amr_dialogue_data.jsonl.zst": zstandard.compress(amr),
        "worked-examples/worked_examples.jsonl": worked,
    }
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return [folder / name for name in contents]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=SEED)
    chosen = parser.parse_args()
    for written in write_inputs(chosen.folder, seed=chosen.seed):
        print(written)
