"""What the teacher's answers are like: counts that add up over units, processes and runs, never means or shares.

Measured on the teacher's own words, before anything is numbered or recomposed: `tagged` says that reasoning and answer
are both there and whole, in whichever way the teacher sets them apart.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pipeline.engine.protocol import Answer, Failure
from pipeline.teacher.compose import Verdict
from pipeline.teacher.reading import Row
from pipeline.text.chinese import judge_chinese

MOST_EXAMPLES = 3
EXAMPLE_CHARACTERS = 160
COUNTS = (
    "outcomes",
    "answers",
    "failed",
    "without_row",
    "tagged",
    "stepped",
    "chinese",
    "characters",
    "prompt_tokens",
    "completion_tokens",
    "retries",
)
BINS_PER_DOUBLING = 4  # of the seconds that answers took


@dataclass
class Quality:
    """Counts by name (`COUNTS`), reasons of rows that ended here, and up to three examples of each fault.

    `seconds` counts answers by how long they took: the upper edge of the bin, a quarter of a doubling wide.
    """

    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    def note(self, row: Row, outcome: Answer | Failure, verdict: Verdict) -> None:
        """Count one outcome. `verdict` is what `judge` made of it."""
        facts = {"outcomes": 1}
        text = f"{verdict.reasoning}\n{verdict.answer}"
        if isinstance(outcome, Answer):
            facts.update(
                answers=1,
                tagged=int(bool(verdict.reasoning and verdict.answer) and outcome.finish_reason != "length"),
                stepped=int(verdict.steps > 0),
                chinese=int(judge_chinese(text).chinese),
                characters=len(verdict.reasoning) + len(verdict.answer),
                prompt_tokens=outcome.prompt_tokens,
                completion_tokens=outcome.completion_tokens,
                retries=outcome.retries,
            )
            self.seconds[_bin(outcome.seconds)] += 1
        if verdict.reason:
            facts.update(without_row=1, failed=int(verdict.failed))
            self.reasons[verdict.reason] += 1
        for name, number in facts.items():
            self.counts[name] += number
        for fault in _faults(facts):
            shown = self.examples.setdefault(fault, [])
            if len(shown) < MOST_EXAMPLES:
                shown.append(_example(row, outcome, verdict))

    def __add__(self, other: "Quality") -> "Quality":
        examples = {
            fault: [*self.examples.get(fault, ()), *other.examples.get(fault, ())][:MOST_EXAMPLES]
            for fault in {**self.examples, **other.examples}
        }
        seconds = self.seconds + other.seconds
        return Quality(self.counts + other.counts, self.reasons + other.reasons, seconds, examples)

    def plain(self) -> dict[str, Any]:
        """As JSON values; every count of `COUNTS` is there, 0 included."""
        counts = {name: self.counts[name] for name in COUNTS}
        return {
            **counts,
            "reasons": dict(sorted(self.reasons.items())),
            "seconds": dict(sorted(self.seconds.items(), key=lambda item: float(item[0]))),
            "examples": self.examples,
        }

    def shares(self) -> dict[str, Any]:
        """Rates for people, 0 to 1, and the mean length in characters; rates of nothing are left out."""
        answers, outcomes = self.counts["answers"], self.counts["outcomes"]
        of_answers = {
            "tag_rate": self.counts["tagged"] / answers,
            "chinese_rate": self.counts["chinese"] / answers,
            "mean_chars": round(self.counts["characters"] / answers),
        } if answers else {}  # fmt: skip
        rejected = {"rejected_rate": self.counts["without_row"] / outcomes} if outcomes else {}
        return {**of_answers, **rejected, "reasons": dict(self.reasons.most_common(3))}

    def in_words(self) -> str:
        """One line. Example: "tags 98.2 %, Chinese 0.4 %, 1,204 characters, rejected 2.1 % (no_reasoning 9)" """
        found = self.shares()
        parts = [
            f"{words} {found[name]:.1%}" if name != "mean_chars" else f"{found[name]:,} characters"
            for name, words in (
                ("tag_rate", "tags"),
                ("chinese_rate", "Chinese"),
                ("mean_chars", ""),
                ("rejected_rate", "rejected"),
            )
            if name in found
        ]
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in found["reasons"].items())
        return ", ".join(parts) + (f" ({reasons})" if reasons else "")


def quality_from(plain: dict[str, Any]) -> Quality:
    """The inverse of `plain`."""
    counts = Counter({name: plain[name] for name in COUNTS})
    return Quality(counts, Counter(plain["reasons"]), Counter(plain["seconds"]), plain["examples"])


def _faults(facts: dict[str, int]) -> list[str]:
    """Which examples an outcome can serve as."""
    found = [name for name in ("without_row", "failed", "chinese") if facts.get(name)]
    if "answers" in facts:
        found += ["any"] + [f"un{name}" for name in ("tagged", "stepped") if not facts[name]]
    return found


def _example(row: Row, outcome: Answer | Failure, verdict: Verdict) -> dict[str, str]:
    said = outcome.detail if isinstance(outcome, Failure) else outcome.content or verdict.reasoning
    return {
        "origin": row.origin,
        "reason": verdict.reason,
        "question": _short(row.turns[-2].content),
        "answer": _short(said),
    }


def _bin(seconds: float) -> str:
    """Example: 3.1 -> "3.36" (of 2.83 to 3.36); 0 -> "0": an answer that was not timed."""
    if seconds <= 0:
        return "0"
    return _edge(math.ceil(math.log2(seconds) * BINS_PER_DOUBLING))


@cache
def _edge(bin_number: int) -> str:
    return f"{2 ** (bin_number / BINS_PER_DOUBLING):.3g}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= EXAMPLE_CHARACTERS else f"{line[:EXAMPLE_CHARACTERS]}..."
