"""What an answer is measured by, and the averages over many answers.

Every mark is taken once, when the answer is there, and stored with it; averages are sums over stored marks, so that
any of them can be computed again from the predictions.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pipeline.scoring.asked import Asked, Question
from pipeline.text.chinese import ChineseRule, judge_chinese
from pipeline.text.thinking import CLOSE_TAG, OPEN_TAG, same_answer, split_thinking, steps

RATES = ("exact", "normalized", "final_answer", "passed", "tags", "stepped", "chinese", "empty", "truncated", "failed")
MEANS = ("characters", "reasoning_characters", "steps", "completion_tokens", "grammar", "naturalness")


@dataclass(frozen=True)
class Reply:
    """What a model said: `text` with its tags, why it ended (stop, length), and a failure's reason when it did not."""

    text: str
    finish_reason: str = "stop"
    completion_tokens: int = 0
    failed: str = ""


def normal(text: str) -> str:
    """The form in which answers count as equal but for writing: NFKC, case folded, white space collapsed.

    Example: " ＡＧＶ  정지 " -> "agv 정지"
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def marks(asked: Asked, reply: Reply, thinking: bool, rule: ChineseRule) -> dict[str, Any]:
    """The marks of one answer: booleans and numbers by metric; what does not apply is left out.

    `tags`: with thinking, reasoning opened and closed once and not empty; without, no reasoning in the answer.
    Example: expected "65", reply "<think>\\n1단계: 53+12\\n</think>\\n\\n65" -> exact, tags and stepped are True
    """
    parts = split_thinking(reply.text)
    reasoning = parts.reasoning or ""
    found = steps(reasoning)
    out: dict[str, Any] = {
        "chinese": judge_chinese(parts.answer, rule).chinese or judge_chinese(reasoning, rule).chinese,
        "empty": not parts.answer,
        "truncated": reply.finish_reason == "length",
        "failed": bool(reply.failed),
        "characters": len(parts.answer),
        "completion_tokens": reply.completion_tokens,
    }
    if thinking:
        out["tags"] = parts.closed and not parts.nested and bool(reasoning) and not parts.before
        out |= {"stepped": found > 0, "steps": found, "reasoning_characters": len(reasoning)}
    else:
        out["tags"] = not reasoning and not parts.nested and (parts.reasoning is None or parts.closed)
    if asked.expected is not None:
        expected = split_thinking(asked.expected).answer
        out["exact"] = parts.answer == expected
        out["normalized"] = normal(parts.answer) == normal(expected)
        out["final_answer"] = bool(parts.answer) and same_answer(parts.answer, expected)
    if asked.question is not None:
        missed = broken_rules(asked.question, parts.answer)
        if out["chinese"]:
            missed.append("chinese")
        out |= {"passed": not missed, "missed": missed}
    return out


def broken_rules(question: Question, answer: str) -> list[str]:
    """Which of a question's rules the answer breaks, in words; empty when it passes.

    Example: must ["멈|정지"], answer "계속 갑니다" -> ["must: 멈|정지"]
    """
    text = unicodedata.normalize("NFKC", answer)
    missed = [f"must: {pattern}" for pattern in question.must if not re.search(pattern, text, re.IGNORECASE)]
    missed += [f"must_not: {pattern}" for pattern in question.must_not if re.search(pattern, text, re.IGNORECASE)]
    if question.answer is not None and not (text.strip() and same_answer(text, question.answer)):
        missed.append(f"answer: {question.answer}")
    return missed


def tagged(text: str, reasoning: str | None, thinking: bool, opened_in_prompt: bool) -> str:
    """An answer with its tags in the one form: a server may set reasoning apart, a prompt may hold the opening tag.

    Example: text "1단계: ...</think>답", opened_in_prompt -> "<think>\\n1단계: ...</think>답"
    """
    if reasoning is not None:
        closed = f"\n{CLOSE_TAG}\n\n{text}" if text else ""
        return f"{OPEN_TAG}\n{reasoning.strip()}{closed}"
    if thinking and opened_in_prompt and OPEN_TAG not in text:
        return f"{OPEN_TAG}\n{text}"
    return text


class Averages:
    """Running sums of marks, for a whole and for each source."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self._counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))

    def add(self, source: str, found: dict[str, Any]) -> None:
        """Count one answer's marks."""
        for group in ("", f"source:{source}"):
            self._counts[group]["rows"] += 1
            for metric in (*RATES, *MEANS):
                if found.get(metric) is not None:
                    self._counts[group][metric] += 1
                    self._sums[group][metric] += float(found[metric])

    def result(self) -> dict[str, Any]:
        """Rates (0 to 1) and means by metric, with `rows`, and the same for each source under `sources`."""
        whole = self._group("")
        groups = sorted(name for name in self._counts if name)
        whole["sources"] = {name.removeprefix("source:"): self._group(name) for name in groups}
        return whole

    def _group(self, name: str) -> dict[str, Any]:
        counts, sums = self._counts[name], self._sums[name]
        out: dict[str, Any] = {"rows": counts["rows"]}
        out |= {metric: round(sums[metric] / counts[metric], 6) for metric in RATES if counts[metric]}
        out |= {f"mean_{metric}": round(sums[metric] / counts[metric], 6) for metric in MEANS if counts[metric]}
        return out


def averaged(predictions: Iterable[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Averages by collection (data, questions) and mode (on, off) over prediction rows."""
    found: dict[str, dict[str, Averages]] = {}
    for row in predictions:
        mode = "on" if row["thinking"] else "off"
        found.setdefault(row["collection"], {}).setdefault(mode, Averages()).add(row["source"], row["marks"])
    return {name: {mode: sums.result() for mode, sums in modes.items()} for name, modes in found.items()}


def flat(averages: dict[str, dict[str, dict[str, Any]]]) -> dict[str, float]:
    """The numbers under dotted names, as limits name them; sources are left out.

    Example: {"data": {"off": {"rows": 200, "exact": 0.9, "sources": {...}}}} -> {"data.off.exact": 0.9}
    """
    return {
        f"{name}.{mode}.{metric}": float(value)
        for name, modes in averages.items()
        for mode, metrics in modes.items()
        for metric, value in metrics.items()
        if metric not in ("sources", "rows")
    }


def compared(before: dict[str, float], after: dict[str, float]) -> list[dict[str, Any]]:
    """The before/after table: one row a metric that both have, with the change."""
    return [
        {"metric": name, "before": before[name], "after": after[name], "change": round(after[name] - before[name], 6)}
        for name in after
        if name in before
    ]
