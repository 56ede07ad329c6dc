"""What is asked: held-out rows and the shipped questions, as one ordered list that every worker makes the same.

A held-out row's prompt is its turns up to the last user turn; its expected answer is the assistant turn after it.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

import xxhash

from pipeline.errors import UserError
from pipeline.recipe.fields import Closed
from pipeline.text.examine import last_prompt_hash, prompt_hashes

Messages = list[dict[str, str]]


class Question(Closed):
    """One shipped question. Every pattern of `must` has to occur in the answer, none of `must_not` may.

    Patterns are regular expressions, searched without regard to case, in the answer after the reasoning.
    """

    id: str
    category: str
    question: str
    must: list[str] = []
    must_not: list[str] = []
    answer: str | None = None  # a final answer to be reached, such as "3"


@dataclass(frozen=True)
class Asked:
    """One thing to ask: `collection` is data or questions; `messages` end with a user turn."""

    collection: Literal["data", "questions"]
    id: str
    source: str
    messages: Messages
    expected: str | None = None
    question: Question | None = None


@cache
def shipped_questions(name: str) -> tuple[Question, ...]:
    """The questions of `<name>.jsonl` beside this module, in file order."""
    text = resources.files("pipeline.scoring").joinpath(f"{name}.jsonl").read_text("utf-8")
    questions = tuple(Question.model_validate_json(line) for line in text.splitlines() if line.strip())
    for question in questions:
        for pattern in (*question.must, *question.must_not):
            re.compile(pattern)
    return questions


def robot_questions(name: str, system_prompt: str) -> Iterator[Asked]:
    """The shipped set, each question under the system prompt."""
    for question in shipped_questions(name):
        messages = [{"role": "system", "content": system_prompt}] if system_prompt else []
        messages.append({"role": "user", "content": question.question})
        yield Asked("questions", question.id, question.category, messages, question.answer, question)


def heldout(rows: Iterable[dict[str, Any]], limit: int | None, name: str) -> list[Asked]:
    """Held-out rows as questions; with a limit, those whose content hashes lowest, in the set's order.

    Raises UserError when there are none, or a row has no user turn before its last answer.
    """
    asked = [_from_row(row, number, name) for number, row in enumerate(rows, 1)]
    if not asked:
        raise UserError(f"{name}: the held-out set is empty", "Check the reference, or the prepare stage's `heldout`.")
    if limit is None or len(asked) <= limit:
        return asked
    keys = [xxhash.xxh3_64_intdigest(f"{item.id}\0{json.dumps(item.messages)}".encode()) for item in asked]
    chosen = set(sorted(range(len(asked)), key=lambda position: (keys[position], position))[:limit])
    return [item for position, item in enumerate(asked) if position in chosen]


def _from_row(row: dict[str, Any], number: int, name: str) -> Asked:
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise UserError(f"{name}: row {number} has no messages", "Evaluate rows that a prepare stage gave.")
    expected = messages[-1]["content"] if messages[-1]["role"] == "assistant" else row.get("expected")
    prompt = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    if not prompt or prompt[-1]["role"] != "user":
        raise UserError(f"{name}: row {number} has no user turn before its last answer", "Prepare the rows first.")
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in prompt]
    return Asked("data", str(row.get("id") or number), str(row.get("source") or ""), turns, expected)


def seen_in_training(asked: Iterable[Asked], training: Iterable[dict[str, Any]]) -> list[Asked]:
    """The held-out items whose prompt stands before any answer of the training rows, whatever that answer is.

    Compared by 64-bit hashes after NFKC and with runs of spaces as one, without system turns.
    """
    by_hash: dict[int, Asked] = {}
    for item in asked:
        by_hash.setdefault(last_prompt_hash([(turn["role"], turn["content"]) for turn in item.messages]), item)
    found: dict[int, Asked] = {}
    for row in training:
        for key in prompt_hashes([(turn["role"], turn["content"]) for turn in row["messages"]]):
            if key in by_hash:
                found[key] = by_hash[key]
    return list(found.values())
