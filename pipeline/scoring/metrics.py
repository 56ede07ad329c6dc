"""What an answer is measured by, and the averages over many answers.

Every mark is taken once, when the answer is there, and stored with it; averages are sums over stored marks, so that
any of them can be computed again from the predictions.
"""

import re
import unicodedata
from collections import Counter, defaultdict
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


def averaged(predictions: Iterable[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Averages by collection (data, questions) and mode (on, off) over prediction rows.

    Rates (0 to 1) and means by metric, with `rows`, and the same for each source under `sources`.
    """
    counts: dict[tuple[str, str], dict[str | None, Counter[str]]] = {}
    sums: dict[tuple[str, str, str | None], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for row in predictions:
        asked = row["collection"], "on" if row["thinking"] else "off"
        found = {name: row["marks"][name] for name in (*RATES, *MEANS) if row["marks"].get(name) is not None}
        for source in (None, row["source"]):
            counts.setdefault(asked, {}).setdefault(source, Counter()).update(["rows", *found])
            for name, mark in found.items():
                sums[*asked, source][name] += float(mark)
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for asked, groups in counts.items():
        means = {source: _means(number, sums[*asked, source]) for source, number in groups.items()}
        sources = {source: means[source] for source in sorted(source for source in means if source is not None)}
        out.setdefault(asked[0], {})[asked[1]] = {**means[None], "sources": sources}
    return out


def _means(counts: Counter[str], sums: dict[str, float]) -> dict[str, Any]:
    named = {name: name for name in RATES} | {name: f"mean_{name}" for name in MEANS}
    means = {shown: round(sums[name] / counts[name], 6) for name, shown in named.items() if counts[name]}
    return {"rows": counts["rows"], **means}


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
