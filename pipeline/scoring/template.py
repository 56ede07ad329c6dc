"""What a checkpoint's chat template does with the switch `enable_thinking`, found by rendering it without torch."""

import re
from dataclasses import dataclass
from pathlib import Path

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipeline.engine.loadable import chat_template
from pipeline.errors import UserError
from pipeline.text.thinking import OPEN_TAG

TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
_TRAINING_MARK = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")  # transformers' own tag, silent when rendering
QUESTION = [{"role": "user", "content": "안녕하세요"}]


@dataclass(frozen=True)
class Switch:
    """`switches`: the prompt differs with thinking on and off; `opened`: with thinking on it ends with `<think>`."""

    switches: bool
    opened: bool


def thinking_switch(folder: Path) -> Switch:
    """How the template in `folder` treats thinking. Raises UserError when there is no template, or it cannot render."""
    template = chat_template(folder)
    if template is None:
        raise UserError(
            f"{folder} has no chat template", "Save chat_template.jinja with it, or take an instruct model."
        )
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals.update(raise_exception=_refuse, strftime_now=lambda layout: layout)
    try:
        compiled = environment.from_string(_TRAINING_MARK.sub("", template))
        on, off = (
            compiled.render(
                messages=QUESTION, add_generation_prompt=True, enable_thinking=mode, bos_token="", eos_token=""
            )
            for mode in (True, False)
        )
    except jinja2.TemplateError as error:
        raise UserError(f"{folder}: the chat template does not render a question: {error}") from error
    return Switch(on != off, on.rstrip().endswith(OPEN_TAG))


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)
