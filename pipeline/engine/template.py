"""What a chat template does with thinking, found by rendering it the way transformers does."""

from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipeline.engine.stream import OPEN

QUESTION = [{"role": "user", "content": "질문"}]


def has_switch(template: str) -> bool:
    """Whether the template knows `enable_thinking`, so that switching it has an effect."""
    return "enable_thinking" in template


def opens_thinking(template: str, thinking: bool) -> bool:
    """Whether the prompt ends inside `<think>`, so that an answer begins as reasoning (Qwen3 Thinking, EXAONE 4.0).

    False for a template that cannot be rendered: the answer's own tags decide then.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals.update(raise_exception=_raise, strftime_now=lambda form: "")
    environment.filters["tojson"] = lambda value, **_: str(value)
    try:
        prompt = environment.from_string(template).render(
            messages=QUESTION, add_generation_prompt=True, enable_thinking=thinking, bos_token="", eos_token=""
        )
    except (jinja2.TemplateError, TypeError, KeyError):
        return False
    return prompt.rstrip().endswith(OPEN)


def _raise(message: Any) -> None:
    raise jinja2.TemplateError(str(message))
