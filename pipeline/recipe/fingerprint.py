"""Fingerprints: what a stage's result depends on, and nothing else.

fingerprint = hash of (settings without operational fields, each reference replaced by the fingerprint or the identity
of what it names, the kind's contract version, and for computing kinds the execution). Same fingerprint, same folder.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Any

from pipeline.recipe.fields import StageSettings, resolved
from pipeline.recipe.profiles import Execution
from pipeline.recipe.references import references_in


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: the same content is the same bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def short_hash(value: Any, length: int = 8) -> str:
    """The first `length` hex digits of the sha256 of the canonical form."""
    return hashlib.sha256(canonical(value)).hexdigest()[:length]


def fingerprint(settings: StageSettings, identity: Callable[[Any], str], execution: Execution | None) -> str:
    """The stage's fingerprint, 24 hex digits. `identity` gives the fingerprint or digest behind a reference."""
    values = resolved(settings, with_operational=False)
    for path, reference, _ in references_in(settings):
        if path[0] in values:
            _replace(values, path, identity(reference))
    document = {
        "contract": type(settings).CONTRACT,
        "settings": values,
        "execution": execution.model_dump() if execution is not None and type(settings).COMPUTES else None,
    }
    return short_hash(document, 24)


def _replace(values: Any, path: tuple[str, ...], identity: str) -> None:
    for step in path[:-1]:
        values = values[int(step)] if isinstance(values, list) else values[step]
    if isinstance(values, list):
        values[int(path[-1])] = identity
    elif path[-1] in values:
        values[path[-1]] = identity
