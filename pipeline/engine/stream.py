"""Server-sent events of a streamed chat completion, and the split of reasoning from the answer while it streams."""

from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass

import orjson

from pipeline.engine.protocol import error_message, reasoning_of
from pipeline.errors import Trouble

OPEN, CLOSE = "<think>", "</think>"


@dataclass(frozen=True)
class Delta:
    """One piece of a streamed answer: exactly one of the two is not empty."""

    reasoning: str = ""
    content: str = ""


async def deltas(lines: AsyncIterable[bytes]) -> AsyncIterator[Delta]:
    """The pieces of `data: {...}` lines up to `data: [DONE]` (HTML standard, "Server-sent events")."""
    async for raw in lines:
        line = raw.strip()
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        value = orjson.loads(data)
        if "error" in value:
            raise Trouble(f"the endpoint broke off: {error_message(data)}")
        for choice in value.get("choices", [])[:1]:
            delta = choice.get("delta") or {}
            reasoning = reasoning_of(delta)
            if reasoning:
                yield Delta(reasoning=reasoning)
            if delta.get("content"):
                yield Delta(content=delta["content"])


class ThinkSplitter:
    """Splits streamed text at `<think>` and `</think>`, also when a tag arrives in pieces.

    `inside`: the opening tag sits in the prompt (Qwen3 Thinking, EXAONE 4.0), so the text begins as reasoning.
    Example: feed("<thi"), feed("nk>셋") -> [], [Delta(reasoning="셋")]
    """

    def __init__(self, inside: bool = False) -> None:
        self.inside = inside
        self._held = ""

    def feed(self, text: str) -> list[Delta]:
        """The pieces that are certain now; the beginning of a possible tag is held back."""
        self._held += text
        out: list[Delta] = []
        while True:
            if self.inside and self._held.lstrip().startswith(OPEN):  # the model repeats the prompt's opening tag
                self._held = self._held.lstrip().removeprefix(OPEN)
            before, found, after = self._held.partition(CLOSE if self.inside else OPEN)
            if found:
                self._emit(out, before)
                self._held, self.inside = after, not self.inside
                continue
            keep = _tag_start(before, (OPEN, CLOSE))
            self._emit(out, before[: len(before) - keep])
            self._held = before[len(before) - keep :]
            return out

    def end(self) -> list[Delta]:
        """What was held back when the stream ends."""
        out: list[Delta] = []
        self._emit(out, self._held)
        self._held = ""
        return out

    def _emit(self, out: list[Delta], text: str) -> None:
        if text:
            out.append(Delta(reasoning=text) if self.inside else Delta(content=text))


def _tag_start(text: str, tags: tuple[str, ...]) -> int:
    """How many characters at the end of `text` may begin a tag. Example: "셋</th" -> 4"""
    longest = min(len(text), max(len(tag) for tag in tags) - 1)
    return next((size for size in range(longest, 0, -1) if any(tag.startswith(text[-size:]) for tag in tags)), 0)
