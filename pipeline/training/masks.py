"""The one masking rule: which tokens of a conversation carry loss.

Loss falls on an assistant turn only when its rendered prefix (what inference would send before it) is exactly a
prefix of the rendered conversation and the turn reads there as it would right after that prefix; from the prefix's
end up to and including the end-of-turn token. Every other token is IGNORED.
"""

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError
from pipeline.text.thinking import split_thinking

IGNORED = -100
Message = dict[str, Any]
Render = Callable[[list[Message], bool, bool], str]

NOTHING_TO_TRAIN = "nothing_to_train"
STRADDLED = "token_straddles_answer"


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
        return sum(label != IGNORED for label in self.labels)


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
        text "<|im_start|>user\\n안녕<|im_end|>\\n<|im_start|>assistant\\n네<|im_end|>\\n", one span over "네<|im_end|>".
    """
    thinking = [_thinks(message) for message in messages]
    whole = render(messages, False, thinking[-1])
    spans: list[tuple[int, int]] = []
    turns = 0
    for position, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        turns += 1
        span = _trained_span(messages[: position + 1], thinking[position], whole, render, end_of_turn)
        if span is not None and (not spans or span[0] >= spans[-1][1]):
            spans.append(span)
    return Rendered(whole, spans, turns - len(spans))


def _thinks(message: Message) -> bool:
    return message["role"] == "assistant" and bool((split_thinking(message["content"]).reasoning or "").strip())


def _trained_span(
    turns: list[Message], thinking: bool, whole: str, render: Render, end_of_turn: str
) -> tuple[int, int] | None:
    """The span of the last of `turns` in `whole`, or None where inference would have sent something else."""
    said = split_thinking(turns[-1]["content"])
    if said.reasoning is not None and not said.closed:
        return None
    prefix = render(turns[:-1], True, thinking)
    if not whole.startswith(prefix):
        return None
    through = render(turns, False, thinking)
    end = through.rfind(end_of_turn) + len(end_of_turn)
    if end < len(end_of_turn) + len(prefix) or not whole.startswith(through[:end]):
        return None
    span = whole[len(prefix) : end]
    if said.answer.strip() not in span or (said.reasoning or "").strip() not in span:
        return None
    return len(prefix), end


class ChatEncoder:
    """Turns conversations into tokens and labels by the rule above, one tokenisation a row.

    Needs a fast tokenizer (character offsets). Stateless between calls, so any division of the rows gives the same.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not tokenizer.is_fast:
            raise UserError(f"{type(tokenizer).__name__} has no fast version", "Use a base with a tokenizer.json.")
        self.render = render_with(tokenizer)
        self.end_of_turn = end_of_turn_token(tokenizer)
        self.backend = _untrimmed(tokenizer.backend_tokenizer)

    def encode(self, conversations: Sequence[list[Message]]) -> list[Encoded | str]:
        """For each conversation its Encoded, or the reason why it cannot be trained on."""
        rendered = [render_spans(messages, self.render, self.end_of_turn) for messages in conversations]
        encodings = self.backend.encode_batch([one.text for one in rendered], add_special_tokens=False)
        return [self._label(one, encoding) for one, encoding in zip(rendered, encodings, strict=True)]

    def token_count(self, messages: list[Message]) -> int:
        """Tokens of a rendered conversation, without a generation prompt."""
        return len(self.backend.encode(self.render(messages, False, False), add_special_tokens=False).ids)

    def _label(self, rendered: Rendered, encoding: Any) -> Encoded | str:
        if not rendered.spans:
            return NOTHING_TO_TRAIN
        ids: list[int] = encoding.ids
        starts = [start for start, _ in encoding.offsets]
        labels = [IGNORED] * len(ids)
        for begin, end in rendered.spans:
            first, last = bisect.bisect_left(starts, begin), bisect.bisect_left(starts, end)
            if _reaches_over(encoding.offsets, first, begin) or _reaches_over(encoding.offsets, last, end):
                return self._cut_at_boundaries(rendered, ids)
            labels[first:last] = ids[first:last]
        return Encoded(ids, labels, rendered.untrained_turns)

    def _cut_at_boundaries(self, rendered: Rendered, joined: list[int]) -> Encoded | str:
        """Tokenise prompt and answer apart, as inference does, where one token would cover the end of both."""
        ids: list[int] = []
        labels: list[int] = []
        position = 0
        for begin, end in [*rendered.spans, (len(rendered.text), len(rendered.text))]:
            given = self.backend.encode(rendered.text[position:begin], add_special_tokens=False).ids
            answer = self.backend.encode(rendered.text[begin:end], add_special_tokens=False).ids
            ids += given + answer
            labels += [IGNORED] * len(given) + answer
            position = end
        # A tokenizer that puts a space before each piece of text would say something else than the row does.
        if self._decode(ids) != self._decode(joined):
            return STRADDLED
        return Encoded(ids, labels, rendered.untrained_turns)

    def _decode(self, ids: list[int]) -> str:
        return str(self.backend.decode(ids, skip_special_tokens=False))


def _reaches_over(offsets: list[tuple[int, int]], index: int, boundary: int) -> bool:
    """Whether the token before `index` (the first that starts at or after `boundary`) ends beyond the boundary."""
    return index > 0 and offsets[index - 1][1] > boundary


def _untrimmed(backend: Any) -> Any:
    """A copy of the tokenizer whose offsets include leading spaces, without padding and truncation.

    ByteLevel post-processors trim offsets, which would hide a token that reaches over a boundary.
    """
    from tokenizers import Tokenizer, processors

    copy = Tokenizer.from_str(backend.to_str())
    copy.post_processor = processors.ByteLevel(trim_offsets=False)
    copy.no_padding()
    copy.no_truncation()
    return copy
