"""The recipe: a name, inputs, and stages. Closed; references are checked against what each kind gives out."""

import difflib
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from pipeline.recipe.fields import Closed, resolved
from pipeline.recipe.fingerprint import short_hash
from pipeline.recipe.kinds import AnySettings, Settings
from pipeline.recipe.references import Accepts, InputReference, StageReference, references_in

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=50)]
StageName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9_-]*[a-z0-9])?$", max_length=40)]


class InputSettings(Closed):
    """An external source. Without `url` it lies at `<store>/inputs/<name>`."""

    description: str = ""
    url: str | None = None


class Recipe(Closed):
    """WHAT to run: the stages with every hyperparameter."""

    name: Name
    description: str = ""
    inputs: dict[Name, InputSettings] = {}
    stages: dict[StageName, Settings] = Field(min_length=1)


class RecipeError(Exception):
    """A recipe that contradicts itself: the path of keys that is wrong, and a sentence."""

    def __init__(self, path: tuple[str, ...], message: str) -> None:
        self.path = path
        super().__init__(message)


def nearest(name: str, names: list[str]) -> str:
    """A hint with the nearest valid spelling, or all valid ones."""
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"valid: {', '.join(sorted(names))}"


def needs(recipe: Recipe) -> dict[str, list[str]]:
    """The DAG: for each stage the stages it needs, sorted. Raises RecipeError on an unknown stage or a cycle."""
    edges: dict[str, list[str]] = {}
    for name, settings in recipe.stages.items():
        wanted = {ref.stage for _, ref, _ in references_in(settings) if isinstance(ref, StageReference)}
        for other in settings.after:
            if other not in recipe.stages:
                raise RecipeError(
                    ("stages", name, "after"), f"unknown stage {other!r}; {nearest(other, list(recipe.stages))}"
                )
        edges[name] = sorted(wanted | set(settings.after))
    return edges


def order(recipe: Recipe) -> list[str]:
    """The stages so that each comes after what it needs; ties in the recipe's order."""
    edges = needs(recipe)
    try:
        sorter = TopologicalSorter({name: edges[name] for name in recipe.stages})
        sorter.prepare()
    except CycleError as error:
        cycle = " -> ".join(reversed(error.args[1]))
        raise RecipeError(("stages", error.args[1][0]), f"stages form a cycle: {cycle}") from error
    out: list[str] = []
    position = {name: place for place, name in enumerate(recipe.stages)}
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=position.__getitem__)
        out.extend(ready)
        sorter.done(*ready)
    return out


def check(recipe: Recipe) -> None:
    """Raise RecipeError when a reference names no stage, input or output, or one of a wrong type."""
    for name, settings in recipe.stages.items():
        for path, reference, accepts in references_in(settings):
            _check_reference(recipe, ("stages", name, *path), reference, accepts)
    order(recipe)


def _check_reference(recipe: Recipe, path: tuple[str, ...], reference: Any, accepts: Accepts | None) -> None:
    if isinstance(reference, InputReference) and reference.input not in recipe.inputs:
        known = list(recipe.inputs)
        hint = nearest(reference.input, known) if known else "the recipe declares none under `inputs:`"
        raise RecipeError(path, f"unknown input {reference.input!r}; {hint}")
    if not isinstance(reference, StageReference):
        return
    upstream = recipe.stages.get(reference.stage)
    if upstream is None:
        raise RecipeError(path, f"unknown stage {reference.stage!r}; {nearest(reference.stage, list(recipe.stages))}")
    outputs = type(upstream).OUTPUTS
    if reference.output is not None and reference.output not in outputs:
        raise RecipeError(
            path,
            f"stage {reference.stage!r} ({upstream.kind}) has no output {reference.output!r}; "
            f"{nearest(reference.output, list(outputs))}",
        )
    if accepts is not None and outputs[output_name(upstream, reference)] not in accepts.types:
        given = outputs[output_name(upstream, reference)]
        fitting = [key for key, kind in outputs.items() if kind in accepts.types]
        hint = f"; its output {fitting[0]!r} would fit" if fitting else ""
        raise RecipeError(
            path, f"wants {' or '.join(accepts.types)}, but stage {reference.stage!r} gives {given}{hint}"
        )


def output_name(upstream: AnySettings, reference: StageReference) -> str:
    """The output that a reference means: the named one, or the kind's main output."""
    return reference.output or next(iter(type(upstream).OUTPUTS))


def rendered(recipe: Recipe) -> dict[str, Any]:
    """The resolved recipe as JSON values, every default written out, with each stage's explicit `needs`."""
    edges = needs(recipe)
    out = resolved(recipe)
    for name, stage in out["stages"].items():
        stage["needs"] = edges[name]
    return out


def digest(recipe: Recipe) -> str:
    """The hash of the rendered recipe that run ids are made of: 8 hex digits."""
    return short_hash(rendered(recipe))
