"""What the report says, in Korean and in English: the phrases of `texts.toml`. Codes without one show as they are."""

import tomllib
from importlib import resources
from typing import NamedTuple

from markupsafe import Markup


class Text(NamedTuple):
    """One phrase in both languages."""

    ko: str
    en: str


def asset(name: str) -> str:
    """A file of this package that the page is made of."""
    return resources.files("pipeline.reporting").joinpath("templates", name).read_text("utf-8")


TEXTS = {key: Text(*phrases) for key, phrases in tomllib.loads(asset("texts.toml")).items()}


def text(key: str, fallback: str | None = None) -> Markup:
    """A phrase in both languages, one of which the page shows; `fallback` (escaped) for a key that has no entry."""
    found = TEXTS.get(key)
    if found is None:
        return Markup("<span>{}</span>").format(key if fallback is None else fallback)
    return Markup('<span class="ko" lang="ko">{}</span><span class="en" lang="en">{}</span>').format(*found)


def coded(prefix: str, code: str) -> Markup:
    """The phrase of a code that data carries. Example: coded("reason", "chinese"); an unknown code shows as it is."""
    return text(f"{prefix}_{code}", code.replace("_", " "))
