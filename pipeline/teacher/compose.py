"""From a row to the request that a teacher gets, and from its answer to the row that goes on. Pure functions.

Teachers reason in four ways, all recomposed into one: the server's parser set the reasoning apart; the tags are in the
text; the opening tag sat in the prompt (EXAONE 4.0); or there are no tags but `1단계:` steps and then the answer.
"""

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson

from pipeline.engine.protocol import Answer, Failure
from pipeline.recipe.fields import resolved
from pipeline.recipe.fingerprint import canonical, short_hash
from pipeline.teacher.reading import Row
from pipeline.teacher.settings import AugmentSettings
from pipeline.text.thinking import final_answer, join_thinking, same_answer, split_thinking, step_numbers, steps

MESSAGES = "\0messages\0"  # stands for them in a request's form; sorted, without spaces, as orjson writes them too
_ANSWER_MARK = re.compile(
    r"^[\s>#*\-_]*(?:최종\s*답변|최종\s*답|최종\s*정답|답변|정답|답|결론)[*_]*\s*[:：]\s*[*_]*", re.MULTILINE
)
_OWN_MARK = re.compile(r"^[\s>#*\-_]*(?:최종\s*답변|답변)[*_]*\s*[:：]\s*[*_]*\s*")
_STEP_START = re.compile(r"^[\s>#*\-_]*\d{1,3}\s?단계[*_]*\s?[:：.)]", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n\s*\n")


@dataclass(frozen=True)
class Verdict:
    """What became of one outcome: the teacher's reasoning and answer ("" for what is missing), and why it ends here.

    `reason` is empty for a row that goes on; `failed` when the teacher gave no answer at all.
    """

    reasoning: str = ""
    answer: str = ""
    reason: str = ""
    detail: str = ""
    failed: bool = False
    steps: int = 0  # in the reasoning


def request_messages(row: Row, settings: AugmentSettings) -> list[dict[str, str]]:
    """The messages that ask for the row's last answer anew: the earlier turns, then the prompt with both put in."""
    *before, question, answer = row.turns
    turns = [turn for turn in before if turn.role != "system" or settings.system_prompt is None]
    messages = [{"role": turn.role, "content": split_thinking(turn.content).answer} for turn in turns]
    if settings.system_prompt is not None:
        messages.insert(0, {"role": "system", "content": settings.system_prompt})
    known = {"question": question.content, "answer": split_thinking(answer.content).answer}
    prompt = re.sub(r"\{(question|answer)\}", lambda match: known[match[1]], settings.prompt)
    return [*messages, {"role": "user", "content": prompt}]


class Requests:
    """One stage's requests and their names in the answer cache; `setup` names what all of them have in common."""

    def __init__(self, teacher: str, settings: AugmentSettings) -> None:
        self.teacher = teacher
        self.settings = settings
        engine = resolved(settings.teacher.engine, with_operational=False)
        engine.pop("max_model_len")  # changes which requests are refused, not what is answered: see failure_key
        common = {"teacher": teacher, "engine": engine, "rerun": settings.rerun}
        sampling = settings.sampling.body()
        prompts = {"prompt": settings.prompt, "system_prompt": settings.system_prompt}
        self.setup = short_hash({**common, **prompts, "sampling": sampling}, 16)
        self._around_in_name = _around({**common, "body": {**sampling, "messages": MESSAGES}})
        self._around_in_body = _around({**sampling, "messages": MESSAGES})

    def request(self, row: Row) -> tuple[str, bytes]:
        """A sound row's request as JSON, and the name of its answer: a hash of the teacher's identity, its engine, and
        the whole request."""
        messages = orjson.dumps(request_messages(row, self.settings), option=orjson.OPT_SORT_KEYS)
        key = sha256(messages.join(self._around_in_name)).hexdigest()[:32]
        return key, messages.join(self._around_in_body)

    def failure_key(self, key: str) -> str:
        """The name under which a failure is kept: a longer context or more attempts ask again, an answer stays."""
        length, attempts = self.settings.teacher.engine.max_model_len, self.settings.client.attempts
        return short_hash({"key": key, "length": length, "attempts": attempts}, 32)


def judge(row: Row, outcome: Answer | Failure, settings: AugmentSettings) -> Verdict:
    """Whether the row goes on with what the teacher said, and what that was; the first reason against it wins."""
    if isinstance(outcome, Failure):
        return Verdict("", "", outcome.reason, outcome.detail, failed=True)
    reasoning, answer = reasoning_and_answer(outcome)
    found_steps = steps(reasoning)
    reason = detail = ""
    if outcome.finish_reason == "length":
        reason = "truncated"
        detail = f"{outcome.completion_tokens} tokens, max_tokens is {settings.sampling.max_tokens}"
    elif not answer:
        reason = "empty_answer"
    elif not reasoning:
        reason = "no_reasoning"
    elif settings.unnumbered == "reject" and not found_steps:
        reason = "no_steps"
    elif settings.keep_only_matching_answers and not same_answer(answer, row.answer):
        reason = "answer_mismatch"
        detail = f"teacher {final_answer(answer)!r:.80}, known {final_answer(row.answer)!r:.80}"
    return Verdict(reasoning, answer, reason, detail, steps=found_steps)


def turn(verdict: Verdict) -> str:
    """The assistant's turn of a row that goes on: `<think>\\n1단계: ...\\n</think>\\n\\n...`."""
    numbered_reasoning = verdict.reasoning if verdict.steps else numbered(verdict.reasoning)
    return join_thinking(numbered_reasoning, verdict.answer)


def compose(row: Row, outcome: Answer, verdict: Verdict, key: str, teacher: str, settings: AugmentSettings) -> bytes:
    """The augmented row as a JSON line; `teacher` in it says who answered which request, and what it replaced."""
    provenance = {
        "model": settings.teacher.name(),
        "identity": teacher,
        "request": key,
        "finish_reason": outcome.finish_reason,
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": outcome.completion_tokens,
        "replaced": row.answer,
    }
    messages = [*row.value["messages"][:-1], {"role": "assistant", "content": turn(verdict)}]
    named = {"source": row.source, "id": row.id, "origin": row.origin}
    return orjson.dumps({**row.value, "messages": messages, **named, "teacher": provenance})


def reasoning_and_answer(answer: Answer) -> tuple[str, str]:
    """What the teacher thought and what it answered, both stripped; "" for what is missing.

    Steps written into the answer itself are the reasoning, whatever was thought before: they are what was asked for.
    Example: content "1단계: 3+4\\n2단계: 7\\n\\n최종 답변: 7" -> ("1단계: 3+4\\n2단계: 7", "7")
    """
    content = split_thinking(answer.content)
    reasoning = (answer.reasoning or content.reasoning or "").strip()
    if steps(reasoning) or not steps(content.answer):
        return reasoning, _without_mark(content.answer)
    return _split_steps(content.answer)


def numbered(reasoning: str) -> str:
    """Reasoning without steps as steps: each paragraph (each line when there is only one) becomes one.

    Example: "먼저 더한다.\\n\\n그다음 뺀다." -> "1단계: 먼저 더한다.\\n2단계: 그다음 뺀다."
    """
    paragraphs = [" ".join(part.split()) for part in _BLANK_LINES.split(reasoning) if part.strip()]
    if len(paragraphs) == 1:
        paragraphs = [line.strip() for line in reasoning.splitlines() if line.strip()]
    return "\n".join(f"{number}단계: {text}" for number, text in enumerate(paragraphs, 1))


def _split_steps(text: str) -> tuple[str, str]:
    """Steps and the answer after them: at the first answer mark after the last step, else at the next blank line."""
    last_step = list(_STEP_START.finditer(text))[-1]
    mark = _ANSWER_MARK.search(text, last_step.end())
    if mark:
        return text[: mark.start()].strip(), _without_mark(text[mark.start() :])
    gap = _BLANK_LINES.search(text, last_step.end())
    if gap:
        return text[: gap.start()].strip(), _without_mark(text[gap.end() :])
    return text.strip(), ""


def _without_mark(answer: str) -> str:
    """The answer without the mark that our own prompt asked for. Example: "최종 답변: 셋" -> "셋"."""
    return _OWN_MARK.sub("", answer.strip(), count=1).strip()


def _around(value: dict[str, Any]) -> tuple[bytes, bytes]:
    """The canonical form of a request ahead of its messages and behind them."""
    before, _, after = canonical(value).partition(canonical(MESSAGES))
    return before, after


def step_gap(reasoning: str) -> bool:
    """Whether the steps are not numbered 1, 2, 3, ... Example: "1단계: 가\\n3단계: 나" -> True"""
    found = step_numbers(reasoning)
    return found != list(range(1, len(found) + 1))
