"""A conversation with a served model: streamed, its reasoning set apart, typed or from the automatic questions.

Reasoning of earlier turns is dropped from the history, as the templates do at inference.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TextIO

from pipeline.engine.client import Client
from pipeline.engine.stream import Delta, ThinkSplitter
from pipeline.reporting.samples import printable
from pipeline.text.chinese import judge_chinese
from pipeline.text.thinking import split_thinking, steps

# The user's own three: a sum with steps, a robot on the floor, and an introduction in which Chinese would show
QUESTIONS = (
    "3x + 5 = 14를 풀어 주세요.",
    "AGV가 주행 중에 장애물을 만나면 어떻게 해야 하나요?",
    "자기소개를 해 주세요.",
)
HELP = "/think: 생각하고 답하기, /no_think: 바로 답하기, /clear: 대화 지우기, quit 또는 exit: 끝내기"
DIM, BOLD, PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"


@dataclass
class Conversation:
    """The turns so far and how the next is asked. `opens_thinking`: the template opens `<think>` in the prompt."""

    client: Client
    thinking: bool = False
    system_prompt: str | None = None
    temperature: float = 0.7
    top_p: float = 0.9
    max_tokens: int = 512
    opens_thinking: bool = False
    turns: list[dict[str, str]] = field(default_factory=list)

    async def reply(self, text: str) -> AsyncIterator[Delta]:
        """Ask `text` as the next turn; reasoning and answer come as pieces. Keeps the turn once it is complete."""
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        question = {"role": "user", "content": text}
        body = {
            "messages": [*system, *self.turns, question],
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "chat_template_kwargs": {"enable_thinking": self.thinking},
        }
        splitter = ThinkSplitter(inside=self.thinking and self.opens_thinking)
        answer = ""
        async for delta in self.client.stream(body):
            if delta.reasoning:
                splitter.inside = False  # the server's parser sets reasoning apart: no tag will come
            for piece in [delta] if delta.reasoning else splitter.feed(delta.content):
                answer += piece.content
                yield piece
        for piece in splitter.end():
            answer += piece.content
            yield piece
        self.turns += [question, {"role": "assistant", "content": split_thinking(answer).answer}]


@dataclass(frozen=True)
class Exchange:
    """One question with what came back."""

    question: str
    reasoning: str
    answer: str

    def remarks(self) -> str:
        """What the user looks for: Chinese in the answer, whether it thought, in how many steps."""
        chinese = judge_chinese(f"{self.reasoning}\n{self.answer}")
        thought = f"생각 있음, {steps(self.reasoning)}단계" if self.reasoning else "생각 없음"
        return (
            f"{f'중국어 있음: {chinese.why}' if chinese.chinese else '중국어 없음'} / {thought} / {len(self.answer)}자"
        )


async def exchange(conversation: Conversation, question: str, out: TextIO) -> Exchange:
    """Ask one question and write the answer to `out` as it comes, the reasoning dimmed and under its own heading."""
    styled = out.isatty()
    reasoning = answer = ""
    async for piece in conversation.reply(question):
        if piece.reasoning:
            text = piece.reasoning if reasoning else piece.reasoning.lstrip()
            out.write(("" if reasoning else _heading("생각", styled, DIM)) + printable(text))
            reasoning += text
        else:
            text = piece.content if answer else piece.content.lstrip()
            if text:
                out.write(("" if answer else _heading("답변", styled, BOLD, after=bool(reasoning))) + printable(text))
            answer += text
        out.flush()
    out.write(f"{PLAIN if styled else ''}\n")
    return Exchange(question, reasoning.strip(), answer.strip())


async def ask_automatically(
    conversation: Conversation, out: TextIO, questions: tuple[str, ...] = QUESTIONS
) -> list[Exchange]:
    """Ask each question in a conversation of its own and remark on what came."""
    found: list[Exchange] = []
    for question in questions:
        conversation.turns.clear()
        out.write(f"\n[질문] {question}\n")
        found.append(await exchange(conversation, question, out))
        out.write(f"({found[-1].remarks()})\n")
    return found


async def talk(conversation: Conversation, out: TextIO) -> None:
    """Questions typed by a person until quit, exit or the end of input. Ctrl-C breaks off an answer only."""
    read = _reader()
    out.write(f"{HELP}\n")
    while True:
        try:
            text = (await read(f"{'생각 ' if conversation.thinking else ''}나> ")).strip()
        except (EOFError, KeyboardInterrupt):
            return
        if text in ("quit", "exit", "/quit", "/exit"):
            return
        if text in ("/think", "/no_think"):
            conversation.thinking = text == "/think"
            out.write("이제 생각하고 답합니다.\n" if conversation.thinking else "이제 바로 답합니다.\n")
        elif text == "/clear":
            conversation.turns.clear()
        elif text.startswith("/"):
            out.write(f"{text}: 모르는 명령입니다. {HELP}\n")
        elif text:
            await _interruptible(conversation, text, out)
        out.flush()


async def _interruptible(conversation: Conversation, text: str, out: TextIO) -> None:
    """Ask; Ctrl-C breaks off this answer and nothing else."""
    loop = asyncio.get_running_loop()
    asking = asyncio.ensure_future(exchange(conversation, text, out))
    loop.add_signal_handler(signal.SIGINT, asking.cancel)
    try:
        await asking
    except asyncio.CancelledError:
        out.write(f"{PLAIN if out.isatty() else ''}\n(멈췄습니다)\n")
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def _reader() -> Callable[[str], Awaitable[str]]:
    """On a terminal prompt_toolkit edits the line, so that Backspace takes one Hangul syllable; else plain lines."""
    if not sys.stdin.isatty():
        return _plain_line
    from prompt_toolkit import PromptSession

    session: PromptSession[str] = PromptSession()

    async def _typed_line(prompt: str) -> str:
        return str(await session.prompt_async(prompt))

    return _typed_line


async def _plain_line(prompt: str) -> str:
    line: str = await asyncio.to_thread(sys.stdin.readline)
    if not line:
        raise EOFError
    return line


def _heading(word: str, styled: bool, style: str, after: bool = False) -> str:
    start = f"{PLAIN if styled else ''}\n\n" if after else ""
    return f"{start}{style if styled else ''}[{word}]{PLAIN if styled and style == BOLD else ''}\n"
