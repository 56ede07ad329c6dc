"""What one reasoning row must meet. Every check is measured on every row; the first that fails is the row's reason."""

import re
from dataclasses import dataclass
from typing import Any

from pipeline.teacher.compose import step_gap
from pipeline.teacher.reading import Row
from pipeline.teacher.settings import CheckSettings
from pipeline.text.chinese import judge_chinese
from pipeline.text.thinking import Thinking, final_answer, split_thinking, step_numbers

_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_HANGUL = re.compile("[\uac00-\ud7a3\u3131-\u318e]")
_EMPTY_STEP = re.compile(r"(?:^|\n)[\s>#*\-_]*\d{1,3}\s?단계[*_]*\s?[:：.)][*_\s]*$")
_OPEN_END = re.compile(r"[,，:：;([{+×÷=<·/]$")
_PARTICLE_END = re.compile(
    r"(?:[은는을를의]|에서|에게|으로|그리고|또는|및|하며|하면|때문에|위해|위한|통해|대한|있는|하는|되는)$"
)
_PASSAGE_CHARACTERS = (4, 80)
_PROBE_STEP = 8
_LONG_LINE = 30
_FEW_LETTERS = 20


@dataclass(frozen=True)
class Finding:
    """One row's verdict and what was measured on it; `reason` is empty when it passes."""

    reason: str
    detail: str
    tagged: bool
    chinese: bool
    stepped: bool
    answered: bool
    looping: bool
    truncated: bool
    steps: int
    reasoning_characters: int
    answer_characters: int


def check_row(row: Row, checks: CheckSettings) -> Finding:
    """Judge a row's last answer (Chinese: every answer).

    Example: "<think>\\n1단계: 3+4=7\\n2단계: 확인합니다.\\n</think>\\n\\n정답: 7" passes with steps 2
    """
    thinking = split_thinking(row.answer)
    reasoning = thinking.reasoning or ""
    steps = step_numbers(reasoning)
    chinese = _chinese(row, checks)
    loop = _loop(row.answer, checks.max_repeats)
    cut = _cut(row.value, thinking)
    answered = final_answer(row.answer) is not None
    stepped = len(steps) >= checks.min_steps and not step_gap(reasoning)
    problems = (
        _tags(thinking) if checks.thinking else None,
        ("chinese", chinese) if chinese else None,
        _lengths(reasoning, thinking.answer, checks),
        None if stepped else ("steps", f"steps {steps[:12]}, wanted at least {checks.min_steps} from 1 without a gap"),
        ("truncated", cut) if cut and checks.truncation else None,
        ("loop", loop) if loop else None,
        None if answered or not checks.final_answer else ("no_final_answer", ""),
        _language(f"{reasoning}\n{thinking.answer}", checks.min_hangul_share),
    )
    reason, detail = next((problem for problem in problems if problem), ("", ""))
    return Finding(
        reason, detail, thinking.well_formed, bool(chinese), stepped, answered, bool(loop), bool(cut),
        len(steps), len(reasoning), len(thinking.answer),
    )  # fmt: skip


def _tags(thinking: Thinking) -> tuple[str, str] | None:
    if thinking.reasoning is None:
        return "no_thinking", "no <think>"
    if not thinking.closed:
        return "thinking_not_closed", "no </think> after <think>"
    if not thinking.well_formed:
        return "thinking_malformed", "tags nested, repeated, or text ahead of <think>"
    return None


def _chinese(row: Row, checks: CheckSettings) -> str:
    if checks.chinese is None:
        return ""
    verdicts = (judge_chinese(turn.content, checks.chinese) for turn in row.turns if turn.role == "assistant")
    return next((verdict.why for verdict in verdicts if verdict.chinese), "")


def _lengths(reasoning: str, answer: str, checks: CheckSettings) -> tuple[str, str] | None:
    bounds = (
        ("answer", len(answer), checks.min_answer_characters, checks.max_answer_characters),
        ("reasoning", len(reasoning), checks.min_reasoning_characters, checks.max_reasoning_characters),
    )
    for name, length, least, most in bounds:
        if length < least:
            return f"{name}_short", f"{length} characters, min_{name}_characters is {least}"
        if most is not None and length > most:
            return f"{name}_long", f"{length} characters, max_{name}_characters is {most}"
    return None


def _cut(value: dict[str, Any], thinking: Thinking) -> str:
    """How the text breaks off, empty when it does not: by the teacher's own word, else by how its two halves end."""
    if (value.get("teacher") or {}).get("finish_reason") == "length":
        return "the teacher's answer was cut off by max_tokens"
    for name, text in (("reasoning", thinking.reasoning or ""), ("answer", thinking.answer)):
        how = breaks_off(text)
        if how:
            return f"{name} ends with {how}"
    return ""


def breaks_off(text: str) -> str:
    """What a text that stops in mid-sentence ends with, empty for a sound end.

    Example: "1단계: 더한다.\\n2단계:" -> "an empty step"; "정답: 65" -> ""; a long line ending in "속도를" -> "'도를'"
    """
    text = text.rstrip()
    if text.count("```") % 2:
        return "an open code block"
    if _EMPTY_STEP.search(text):
        return "an empty step"
    if _OPEN_END.search(text):
        return repr(text[-1])
    last_line = text.rsplit("\n", 1)[-1]
    return repr(last_line[-2:]) if len(last_line) > _LONG_LINE and _PARTICLE_END.search(last_line) else ""


def _loop(text: str, max_repeats: int | None) -> str:
    """The passage that stands `max_repeats` times in a row, or the line that stands so often anywhere; empty for none.

    Example: max_repeats 3: "그래서 그래서 그래서 그래서 좋다" -> "'그래서 '"; a ruled line of dashes is no loop
    """
    if max_repeats is None:
        return ""
    lines: dict[str, int] = {}
    for line in map(str.strip, text.splitlines()):
        if len(line) >= 10 and any(map(str.isalpha, line)):
            lines[line] = lines.get(line, 0) + 1
            if lines[line] >= max_repeats:
                return repr(line[:40])
    return repeated_passage(text, max_repeats)


def repeated_passage(text: str, max_repeats: int) -> str:
    """A passage of 4 to 80 characters, with a letter in it, that stands `max_repeats` times in a row; empty for none.

    Every eighth position asks where its next four characters come again; only such a distance is looked at closer, so
    ordinary text costs a few hundred searches.
    """
    least, most = _PASSAGE_CHARACTERS
    for start in range(0, len(text) - least * max_repeats // 2, _PROBE_STEP):
        gram = text[start : start + least]
        again = text.find(gram, start + least, start + most + least)
        while again >= 0:
            size = again - start
            passage = text[start:again]
            repeats = passage == text[again : again + size] and any(map(str.isalpha, passage))
            if repeats and _run(text, start, size) // size + 1 >= max_repeats:
                return repr(passage[:40])
            again = text.find(gram, again + 1, start + most + least)
    return ""


def _run(text: str, start: int, size: int) -> int:
    """How many characters around `start` equal the one `size` further on, without a gap.

    Example: text "가나가나가나다", start 2, size 2 -> 4: the passage stands 4 // 2 + 1 = 3 times
    """
    first = start
    while first > 0 and text[first - 1] == text[first - 1 + size]:
        first -= 1
    last = start
    while last + size < len(text) and text[last] == text[last + size]:
        last += 1
    return last - first


def _language(text: str, min_share: float | None) -> tuple[str, str] | None:
    """Example: min_share 0.3: "The answer to the question is seven" -> ("language", ...); "7" -> None: few letters."""
    if min_share is None:
        return None
    prose = _CODE.sub("", text)
    letters = sum(map(str.isalpha, prose))
    if letters < _FEW_LETTERS:
        return None
    share = len(_HANGUL.findall(prose)) / letters
    return ("language", f"Hangul share {share:.2f}, min_hangul_share is {min_share}") if share < min_share else None
