"""What is known of Hub models before anything is fetched: wrong ids, licences, and shapes for the plan's arithmetic.

The knowledge lies in known_models.yaml. Shapes have the form of a checkpoint's own config.json, so that what reads one
reads the other; a mirrored checkpoint's own config always goes before them.
"""

import copy
import difflib
import functools
import re
from importlib import resources
from typing import Any

from ruamel.yaml import YAML

from pipeline.errors import UserError


@functools.cache
def _known() -> dict[str, Any]:
    text = resources.files("pipeline.recipe").joinpath("known_models.yaml").read_text(encoding="utf-8")
    return YAML(typ="safe", pure=True).load(text)  # type: ignore[no-any-return]


def known_config(model_id: str) -> dict[str, Any] | None:
    """The shape of a known model as its config.json gives it, or None. A revision in the id is ignored.

    Example: known_config("Qwen/Qwen2.5-14B-Instruct")["hidden_size"] -> 5120
    """
    entry = _known()["models"].get(_bare(model_id))
    return copy.deepcopy(entry["config"]) if entry else None


def check_model_id(model_id: str) -> None:
    """Raise UserError for an id that is known not to exist, naming the right ones. Unknown ids pass."""
    bare = _bare(model_id)
    for entry in _known()["wrong"]:
        if re.fullmatch(entry["pattern"], bare, re.IGNORECASE):
            raise UserError(
                f"there is no model {bare!r} on the Hub: {entry['why']}", f"Use {' or '.join(entry['right'])}"
            )
    for known in _known()["models"]:
        if bare != known and bare.lower() == known.lower():
            raise UserError(f"the model {bare!r} is spelled {known!r} on the Hub", f"Use {known}")


def licence_note(model_id: str) -> str | None:
    """What a reader of the plan must know of the model's licence, or None when nothing restricts its use."""
    for entry in _known()["licences"]:
        if re.fullmatch(entry["pattern"], _bare(model_id), re.IGNORECASE):
            return str(entry["note"])
    return None


def near_model_ids(model_id: str, count: int = 3) -> list[str]:
    """Known ids that resemble a wrong one, nearest first: for "did you mean"."""
    names = {name.lower(): name for name in _known()["models"]}
    near = difflib.get_close_matches(_bare(model_id).lower(), list(names), n=count, cutoff=0.6)
    return [names[name] for name in near]


def _bare(model_id: str) -> str:
    return model_id.split("@")[0]
