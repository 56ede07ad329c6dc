"""Tokenizers that count the think tags among their special tokens: a server leaves those out of its text.

Example: with `</think>` special, vLLM's text of "<think>1</think>2" is "12", and reasoning and answer are one.
"""

from pathlib import Path
from typing import Any

import orjson

from pipeline.text.thinking import CLOSE_TAG, OPEN_TAG

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def special_beside_tags(folder: Path) -> tuple[str, ...]:
    """The special tokens of a checkpoint's tokenizer without the think tags, longest first; () when neither is special.

    A token is special when any of the tokenizer's files says so. What a request must do about it: `Endpoint.options`.
    """
    found = {name for file in FILES for name in _special(_json(folder / file))}
    if not found & {OPEN_TAG, CLOSE_TAG}:
        return ()
    return tuple(sorted(found - {OPEN_TAG, CLOSE_TAG}, key=lambda token: (-len(token), token)))


def _special(document: dict[str, Any]) -> set[str]:
    """The special tokens in one of the files; the three have three ways to name them."""
    added = [*(document.get("added_tokens") or []), *(document.get("added_tokens_decoder") or {}).values()]
    named = [value for name, value in document.items() if name.endswith("_token")]
    extra = document.get("additional_special_tokens") or []
    marked = [token["content"] for token in added if token.get("special")]
    texts = [token.get("content") if isinstance(token, dict) else token for token in [*named, *extra]]
    return {token for token in [*marked, *texts] if isinstance(token, str) and token}


def _json(path: Path) -> dict[str, Any]:
    try:
        value = orjson.loads(path.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return {}
    return value if isinstance(value, dict) else {}
