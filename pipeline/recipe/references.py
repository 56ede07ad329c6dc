"""References between stages, inputs and models: what stands in a recipe where a URI could.

A field declares with `Accepts(...)` which types of output it reads, so that a recipe that feeds an adapter to a
stage that wants rows fails when it is loaded and not at hour nine.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field

from pipeline.recipe.fields import Closed, OutputType

HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w.-]+)?$")


class StageReference(Closed):
    """Another stage's output: `{stage: phase1}` is its main output, `{stage: phase1, output: adapter}` a named one."""

    stage: str
    output: str | None = None


class InputReference(Closed):
    """A named external source, `<store>/inputs/<name>` unless overridden; `files` picks some of it by glob.

    Example: {input: raw, files: ["kowiki_qa_data.jsonl*"]}
    """

    input: str
    files: list[str] | None = Field(default=None, min_length=1)


@dataclass(frozen=True)
class Accepts:
    """Annotation of a reference field: the output types that it reads."""

    types: tuple[OutputType, ...]


def _reference(value: Any) -> Any:
    """Pick the reference class by its keys, so that an error speaks of that class and not of a whole union."""
    if isinstance(value, dict):
        if "stage" in value:
            return StageReference.model_validate(value)
        if "input" in value:
            return InputReference.model_validate(value)
        raise ValueError(f"a reference is {{stage: ...}}, {{input: ...}} or a URL; got keys {sorted(value)}")
    return value


Reference = Annotated[StageReference | InputReference | str, BeforeValidator(_reference)]
RowsReference = Annotated[Reference, Accepts(("rows", "rejects", "heldout", "predictions"))]
ModelReference = Annotated[Reference, Accepts(("model",))]
AdapterReference = Annotated[Reference, Accepts(("adapter",))]
ScoresReference = Annotated[Reference, Accepts(("scores",))]
PromotionReference = Annotated[Reference, Accepts(("promotion",))]


def is_hub_id(reference: object) -> bool:
    """Whether a string is a Hub id, `organisation/name` or `organisation/name@revision`.

    Example: "Qwen/Qwen3-VL-8B-Instruct" -> True; "./models/mine", "s3://bucket/x", "/data/x" -> False
    """
    return isinstance(reference, str) and HUB_ID.match(reference) is not None and "://" not in reference


def references_in(model: BaseModel, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any, Accepts | None]]:
    """Every reference in a settings model, as (path of keys, reference, what the field accepts).

    Example: TrainSettings(data={stage: prepare})
    -> [(("data",), StageReference(stage="prepare"), Accepts(("rows", ...)))]
    """
    found: list[tuple[tuple[str, ...], Any, Accepts | None]] = []
    for name, field in type(model).model_fields.items():
        accepts = _accepts(field.metadata) or _accepts_inside(field.annotation)
        _walk(getattr(model, name), (*path, name), accepts, found)
    return found


def _walk(value: Any, path: tuple[str, ...], accepts: Accepts | None, found: list[Any]) -> None:
    if isinstance(value, (StageReference, InputReference)):
        found.append((path, value, accepts))
    elif isinstance(value, str):
        if accepts is not None:
            found.append((path, value, accepts))
    elif isinstance(value, BaseModel):
        found.extend(references_in(value, path))
    elif isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            _walk(item, (*path, str(position)), accepts, found)
    elif isinstance(value, dict):
        for key, item in value.items():
            _walk(item, (*path, str(key)), accepts, found)


def _accepts(metadata: Any) -> Accepts | None:
    return next((mark for mark in metadata if isinstance(mark, Accepts)), None)


def _accepts_inside(annotation: Any) -> Accepts | None:
    """Find the mark in `list[RowsReference]`, `RowsReference | None` or `dict[str, RowsReference]`."""
    for argument in getattr(annotation, "__args__", ()):
        mark = _accepts(getattr(argument, "__metadata__", ())) or _accepts_inside(argument)
        if mark is not None:
            return mark
    return None
