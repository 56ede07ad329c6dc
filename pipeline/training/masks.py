"""The one masking rule: which tokens of a conversation carry loss.

Loss falls on an assistant turn only when its rendered prefix (what inference would send before it) is exactly a
prefix of the rendered conversation and the turn reads there as it would right after that prefix; from the prefix's
end up to and including the end-of-turn token. Every other token is IGNORED. Prompt and answer are tokenised apart.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError
from pipeline.text.thinking import split_thinking

IGNORED = -100
Message = dict[str, Any]
Render = Callable[[list[Message], bool, bool], str]

NOTHING_TO_TRAIN = "nothing_to_train"


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, and the character spans [start, end) that carry loss."""

    text: str
    spans: list[tuple[int, int]]
    untrained_turns: int


@dataclass(frozen=True)
class Encoded:
    """A row's `input_ids` and `labels`, of equal length; labels are IGNORED or the token itself."""

    input_ids: list[int]
    labels: list[int]
    untrained_turns: int = 0

    @property
    def trained(self) -> int:
        """Tokens that carry loss."""
        return len(self.labels) - self.labels.count(IGNORED)


def render_with(tokenizer: Any) -> Render:
    """Render through the tokenizer's chat template: (messages, add_generation_prompt, enable_thinking) -> text."""

    def render(messages: list[Message], add_generation_prompt: bool, thinking: bool) -> str:
        # skip_think is EXAONE 4's own switch: without it the template drops the reasoning of the last answer too.
        text = tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            enable_thinking=thinking,
            skip_think=False,
        )
        return str(text)

    return render


def end_of_turn_token(tokenizer: Any) -> str:
    """The token that ends an assistant turn in this template, such as `<|im_end|>`.

    UserError when the template writes none: a model trained with it would never learn to stop.
    """
    question: Message = {"role": "user", "content": "q"}
    answer = "answer"
    rendered = render_with(tokenizer)([question, {"role": "assistant", "content": answer}], False, False)
    tail = rendered[rendered.rindex(answer) + len(answer) :] if answer in rendered else ""
    known = {str(token) for token in tokenizer.added_tokens_decoder.values()} | set(tokenizer.all_special_tokens)
    found = sorted((tail.index(token), -len(token), token) for token in known if token and token in tail)
    if not found:
        raise UserError(
            f"the chat template ends an assistant turn with {tail!r}, which holds no special token of the tokenizer",
            "Use a template that closes each turn with an end-of-turn token, or the model never learns to stop.",
        )
    return found[0][2]


def render_spans(messages: list[Message], render: Render, end_of_turn: str) -> Rendered:
    """Render a conversation and find the spans that carry loss.

    Example (ChatML): [user "안녕", assistant "네"] ->
        "<|im_start|>user\\n안녕<|im_end|>\\n<|im_start|>assistant\\n네<|im_end|>\\n", one span: "네<|im_end|>".
    """
    thinking = [_thinks(message) for message in messages]
    whole = render(messages, False, thinking[-1])
    spans: list[tuple[int, int]] = []
    turns = 0
    for position, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        turns += 1
        turns_so_far = messages[: position + 1]
        through = whole if position + 1 == len(messages) else render(turns_so_far, False, thinking[position])
        span = _trained_span(turns_so_far, thinking[position], whole, through, render, end_of_turn)
        if span is not None and (not spans or span[0] >= spans[-1][1]):
            spans.append(span)
    return Rendered(whole, spans, turns - len(spans))


def _thinks(message: Message) -> bool:
    return message["role"] == "assistant" and bool((split_thinking(message["content"]).reasoning or "").strip())


def _trained_span(
    turns: list[Message], thinking: bool, whole: str, through: str, render: Render, end_of_turn: str
) -> tuple[int, int] | None:
    """The span of the last of `turns` in `whole`, or None where inference would have sent something else.

    `through` is `turns` rendered alone: the conversation as it stood right after that answer.
    """
    said = split_thinking(turns[-1]["content"])
    if said.reasoning is not None and not said.closed:
        return None
    prefix = render(turns[:-1], True, thinking)
    if not whole.startswith(prefix):
        return None
    end = through.rfind(end_of_turn) + len(end_of_turn)
    if end < len(end_of_turn) + len(prefix) or not whole.startswith(through[:end]):
        return None
    span = whole[len(prefix) : end]
    if said.answer.strip() not in span or (said.reasoning or "").strip() not in span:
        return None
    return len(prefix), end


class ChatEncoder:
    """Turns conversations into tokens and labels by the rule above.

    A row is tokenised in pieces, cut where loss begins and ends: inference tokenises the prompt alone too, and a
    tokenizer that merges newlines over that boundary would else train on tokens that no prompt ends with. Stateless
    between calls, so any division of the rows gives the same.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not tokenizer.is_fast:
            raise UserError(f"{type(tokenizer).__name__} has no fast version", "Use a base with a tokenizer.json.")
        self.render = render_with(tokenizer)
        self.end_of_turn = end_of_turn_token(tokenizer)
        self.backend = _plain_copy(tokenizer.backend_tokenizer)
        _refuse_prefix_space(self.backend)

    def encode(self, conversations: Sequence[list[Message]]) -> list[Encoded | str]:
        """For each conversation its Encoded, or the reason why it cannot be trained on."""
        rendered = [render_spans(messages, self.render, self.end_of_turn) for messages in conversations]
        pieces = [_pieces(one) if one.spans else [] for one in rendered]
        encodings = self.backend.encode_batch([piece for row in pieces for piece in row], add_special_tokens=False)
        ids = iter([encoding.ids for encoding in encodings])
        return [
            _labelled([next(ids) for _ in row], one.untrained_turns) if row else NOTHING_TO_TRAIN
            for row, one in zip(pieces, rendered, strict=True)
        ]

    def token_count(self, messages: list[Message]) -> int:
        """Tokens of a rendered conversation, without a generation prompt."""
        return len(self.backend.encode(self.render(messages, False, False), add_special_tokens=False).ids)


def _pieces(rendered: Rendered) -> list[str]:
    """Given text and trained text in turn: spans [(3, 5)] of "abcdefg" -> ["abc", "de", "fg"]."""
    edges = [0, *(edge for span in rendered.spans for edge in span), len(rendered.text)]
    return [rendered.text[start:end] for start, end in itertools.pairwise(edges)]


def _labelled(pieces: list[list[int]], untrained_turns: int) -> Encoded:
    """Join the pieces; every second one carries loss."""
    ids: list[int] = []
    labels: list[int] = []
    for number, piece in enumerate(pieces):
        ids += piece
        labels += piece if number % 2 else [IGNORED] * len(piece)
    return Encoded(ids, labels, untrained_turns)


def _plain_copy(backend: Any) -> Any:
    """A copy of the tokenizer without padding and truncation."""
    from tokenizers import Tokenizer

    copy = Tokenizer.from_str(backend.to_str())
    copy.no_padding()
    copy.no_truncation()
    return copy


def _refuse_prefix_space(backend: Any) -> None:
    """UserError for tokenizers that put a space before each piece of text (SentencePiece's dummy prefix)."""
    whole, parts = "ab cd", ("ab c", "d")
    joined = [token for part in parts for token in backend.encode(part, add_special_tokens=False).ids]
    said = backend.decode(joined, skip_special_tokens=False)
    if said != backend.decode(backend.encode(whole, add_special_tokens=False).ids, skip_special_tokens=False):
        raise UserError(
            f"this tokenizer puts a space before each piece of text ({whole!r} in two pieces reads {said!r})",
            "Its answers would be trained with a space that no prompt asks for; use a base with a byte-level one.",
        )
