"""Chat templates and their switch `enable_thinking`: one encoding of reasoning for data, masks, chat and serving.

A template that has the switch keeps it. ChatML templates without it can be replaced by `qwen_thinking.jinja`, in
which on opens `<think>` and off gives the empty block, as Qwen3 does. The template is saved with the checkpoint.
"""

import re
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import UserError

TEMPLATE_FILE = "chat_template.jinja"
_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
_SWITCH = re.compile(r"\benable_thinking\b")


def has_thinking_switch(template: str) -> bool:
    """Whether a chat template reads the variable `enable_thinking` (comments do not count).

    Example: "{% if enable_thinking %}..." -> True; "{# enable_thinking #}" -> False
    """
    return _SWITCH.search(_COMMENT.sub("", template)) is not None


def thinking_template(template: str) -> str:
    """The template with the switch: itself where it has one, ours for ChatML; UserError for any other family."""
    if has_thinking_switch(template):
        return template
    if "<|im_start|>" in template and "<|im_end|>" in template:
        return (Path(__file__).parent / "qwen_thinking.jinja").read_text(encoding="utf-8")
    raise UserError(
        f"chat_template: thinking is known for ChatML only, and this checkpoint's template begins {template[:60]!r}",
        "Use chat_template: keep, or a base whose template has the switch enable_thinking.",
    )


def template_of(tokenizer: Any, place: str) -> str:
    """The tokenizer's chat template; UserError naming `place` (the checkpoint) when it has none."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise UserError(
            f"{place} has no chat template",
            f"Use the instruction-tuned checkpoint of this model, or put a {TEMPLATE_FILE} beside its tokenizer.",
        )
    return str(template)


def choose_template(tokenizer: Any, choice: Literal["keep", "thinking"], place: str) -> str:
    """Set and return the chat template that training uses and that is saved with what training makes."""
    template = template_of(tokenizer, place)
    if choice == "thinking":
        template = thinking_template(template)
    tokenizer.chat_template = template
    return template
