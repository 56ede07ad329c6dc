"""Reads recipes: YAML 1.2 with positions, `extends`, overlays, `--set`; errors with file, line, key and value."""

import copy
import io
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError

from pipeline.errors import UserError
from pipeline.recipe import kinds, models
from pipeline.recipe.models import Recipe, RecipeError, check, digest, nearest

KeyPath = tuple[str, ...]


@dataclass
class Document:
    """Plain values, and where each key stands: {("stages", "phase1", "seed"): "my.yaml:12"}."""

    values: dict[str, Any]
    places: dict[KeyPath, str]

    def place(self, path: KeyPath) -> str:
        """Where the key, or the nearest key above it, stands."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return "recipe"


def shipped_names() -> list[str]:
    """The recipes that come with hanforge."""
    folder = resources.files("pipeline").joinpath("recipes")
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_recipe(name: str, overlays: list[str] | None = None, sets: list[str] | None = None) -> Recipe:
    """A recipe by shipped name or path, with overlay files and `stage.key=value` settings laid over it.

    Raises UserError with file, line, key, value and the nearest valid spelling.
    """
    document = read_document(name)
    for overlay in overlays or []:
        document = merged(document, read_document(overlay))
    for assignment in sets or []:
        document = merged(document, _assignment(assignment, document))
    return validated(document)


def read_document(name: str, seen: tuple[str, ...] = ()) -> Document:
    """One YAML file with everything it extends laid under it."""
    text, origin = _text(name, seen)
    document = parse(text, origin)
    parent = document.values.pop("extends", None)
    if parent is None:
        return document
    if not isinstance(parent, str):
        raise UserError(f"{document.place(('extends',))}: extends: {parent!r} is not a recipe's name or path")
    if (Path(origin).parent / parent).is_file():
        parent = str(Path(origin).parent / parent)
    if origin in seen:
        raise UserError(f"{origin}: extends itself: {' -> '.join((*seen, origin))}")
    return merged(read_document(parent, (*seen, origin)), document)


def _text(name: str, seen: tuple[str, ...]) -> tuple[str, str]:
    path = Path(name)
    shipped = resources.files("pipeline").joinpath("recipes", f"{name}.yaml")
    try:
        if path.suffix in (".yaml", ".yml", ".json") or "/" in name:
            return path.read_text("utf-8"), str(path)
        if shipped.is_file():
            return shipped.read_text("utf-8"), f"{name}.yaml"
    except FileNotFoundError as error:
        raise UserError(
            f"recipe file {name!r} does not exist", f"Shipped recipes: {', '.join(shipped_names())}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"recipe file {name!r} cannot be read: {error}") from error
    raise UserError(
        f"unknown recipe {name!r}; {nearest(name, shipped_names())}", "Give a shipped name or a path to a .yaml file"
    )


def parse(text: str, origin: str) -> Document:
    """Parse YAML 1.2; a duplicate key or a syntax error is a UserError with its line."""
    try:
        tree = YAML(typ="rt").load(io.StringIO(text))
    except DuplicateKeyError as error:
        problem = (error.problem or "duplicate key").split(" with value")[0]
        raise UserError(f"{origin}:{_line(error)}: {problem}", "Remove one of the two") from error
    except MarkedYAMLError as error:
        raise UserError(f"{origin}:{_line(error)}: not valid YAML: {error.problem}") from error
    if not isinstance(tree, CommentedMap):
        raise UserError(f"{origin}: a recipe is a mapping with `name` and `stages`, this is {type(tree).__name__}")
    places: dict[KeyPath, str] = {(): origin}
    return Document(_plain(tree, (), origin, places), places)


def _line(error: MarkedYAMLError) -> int:
    mark = error.problem_mark or error.context_mark
    return mark.line + 1 if mark is not None else 1


def _plain(node: Any, path: KeyPath, origin: str, places: dict[KeyPath, str]) -> Any:
    """ruamel's annotated values as plain ones, while noting where each key stands."""
    if isinstance(node, CommentedMap):
        for key in node:
            places[(*path, str(key))] = f"{origin}:{node.lc.key(key)[0] + 1}"
        return {str(key): _plain(value, (*path, str(key)), origin, places) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        for position in range(len(node)):
            places[(*path, str(position))] = f"{origin}:{node.lc.item(position)[0] + 1}"
        return [_plain(value, (*path, str(place)), origin, places) for place, value in enumerate(node)]
    if isinstance(node, bool) or node is None:
        return node
    for plain in (int, float, str):
        if isinstance(node, plain):
            return plain(node)
    return node


def merged(base: Document, over: Document) -> Document:
    """`over` laid over `base`: mappings merge, anything else replaces, null removes a key of a mapping.

    What a digest of `base` vouched for is changed on purpose, so it goes.

    A stage that changes its `kind` replaces the whole stage, since nothing of the old kind's settings applies.
    """
    values = {key: value for key, value in copy.deepcopy(base.values).items() if key != "digest"}
    places = {**base.places, **{path: place for path, place in over.places.items() if path}}
    _merge_into(values, over.values)
    return Document(values, places)


def _merge_into(base: dict[str, Any], over: dict[str, Any]) -> None:
    for key, value in over.items():
        standing = base.get(key)
        same_kind = not (isinstance(value, dict) and isinstance(standing, dict)) or (
            value.get("kind", standing.get("kind")) == standing.get("kind")
        )
        is_reference = isinstance(value, dict) and bool({"stage", "input"} & set(value))
        if isinstance(value, dict) and isinstance(standing, dict) and same_kind and not is_reference:
            _merge_into(standing, value)
        elif value is None and isinstance(standing, dict) and "kind" in standing:
            del base[key]
        else:
            base[key] = copy.deepcopy(value)


def _assignment(text: str, document: Document) -> Document:
    """`phase1.lora.r=32` as an overlay; the value is read as YAML."""
    key, equals, value = text.partition("=")
    path = tuple(key.strip().split("."))
    if not equals or len(path) < 2:
        raise UserError(f"--set {text!r}: wants STAGE.KEY=VALUE", "Example: --set phase1.learning_rate=1e-5")
    stages = document.values.get("stages", {})
    if path[0] not in stages:
        raise UserError(f"--set {text!r}: unknown stage {path[0]!r}; {nearest(path[0], list(stages))}")
    path = (path[0], *_joined_at_dict(stages[path[0]], path[1:]))
    inner = parse(f"value: {value}", f"--set {text}").values["value"]
    for name in reversed(path):
        inner = {name: inner}
    full = ("stages", *path)
    return Document({"stages": inner}, {full[: length + 1]: f"--set {text}" for length in range(1, len(full))})


def _joined_at_dict(stage: Any, path: KeyPath) -> KeyPath:
    """Keys of one stage, as far as they lead into a dict with free keys, which may hold dots themselves.

    Example: promote, ("limits", "data.off.exact", "min") from ("limits", "data", "off", "exact", "min")
    """
    model: Any = _settings_model(stage.get("kind") if isinstance(stage, dict) else None)
    for position, step in enumerate(path[:-1]):
        field = model.model_fields.get(step) if model is not None else None
        if field is None:
            return path
        free, model = _free_values(field.annotation), _inner_model(field.annotation)
        if free is not None:
            return (*path[: position + 1], *_split_key(path[position + 1 :], free))
    return path


def _split_key(path: KeyPath, values: Any) -> KeyPath:
    """The free key with its dots, and behind it the last step where that is a key of the dict's own values."""
    model = _inner_model(values)
    inner = model is not None and len(path) > 1 and path[-1] in model.model_fields
    return (".".join(path[:-1]), path[-1]) if inner else (".".join(path),)


def _free_values(annotation: Any) -> Any:
    """The type of a dict's values where a field is one, also an optional one; None for any other field."""
    if get_origin(annotation) is dict:
        return get_args(annotation)[1]
    return next((found for part in get_args(annotation) if (found := _free_values(part)) is not None), None)


def _settings_model(kind: Any) -> Any:
    """The settings of a kind of stage; None for a kind that there is not."""
    return next((item for item in kinds.AnySettings.__args__ if item.model_fields["kind"].default == kind), None)


def validated(document: Document) -> Recipe:
    """The recipe as a closed model; UserError with the place of the first mistakes (all of them, a line each)."""
    values = copy.deepcopy(document.values)
    for stage in (values.get("stages") or {}).values():
        if isinstance(stage, dict):
            stage.pop("needs", None)  # what `render` adds; the DAG is always derived
    vouched = values.pop("digest", None)
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise UserError("\n".join(_sentence(document, detail) for detail in error.errors())) from error
    try:
        check(recipe)
    except RecipeError as error:
        raise UserError(f"{document.place(error.path)}: {'.'.join(error.path)}: {error}") from error
    if vouched is not None and str(vouched) != digest(recipe):
        raise UserError(
            f"{document.place(('digest',))}: digest: {vouched!r} does not belong to this recipe, which was edited "
            f"after `hanforge render` wrote it, or rendered by another version: now it is {digest(recipe)!r}",
            "Render it again, or take the line out",
        )
    return recipe


def _sentence(document: Document, detail: Any) -> str:
    """One pydantic error as `file:line: key: what is wrong, value, nearest spelling`."""
    kind, message, value = detail["type"], detail["msg"], detail.get("input")
    location = [str(item) for item in detail["loc"]]
    if len(location) > 2 and location[0] == "stages" and location[2] in kinds.KINDS:
        del location[2]  # pydantic inserts the union's tag
    path = tuple(_known(document.values, location))
    where = f"{document.place(path)}: {'.'.join(path)}"
    if kind == "extra_forbidden":
        return f"{where}: unknown key {path[-1]!r}; {nearest(path[-1], _valid_keys(document.values, path))}"
    if kind == "missing":
        missing = location[-1]
        return f"{where}: required key {missing!r} is missing"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        given = value.get("kind") if isinstance(value, dict) else value
        where = f"{document.place((*path, 'kind'))}: {'.'.join((*path, 'kind'))}"
        return f"{where}: {given!r} is not a kind of stage; {nearest(str(given), list(kinds.KINDS))}"
    shown = "" if isinstance(value, (dict, list)) else f", got {value!r}"
    return f"{where}: {message.removeprefix('Value error, ')}{shown}"


def _known(values: Any, location: list[str]) -> list[str]:
    """The part of pydantic's location that exists in the document (it names union branches too)."""
    path: list[str] = []
    for step in location:
        if isinstance(values, dict) and step in values:
            values = values[step]
        elif isinstance(values, list) and step.isdigit() and int(step) < len(values):
            values = values[int(step)]
        else:
            continue
        path.append(step)
    return path


def _valid_keys(values: dict[str, Any], path: KeyPath) -> list[str]:
    """The keys that may stand where an unknown one stands."""
    model: Any = Recipe
    if len(path) >= 3 and path[0] == "stages":
        model = _settings_model(values["stages"][path[1]].get("kind"))
        path = path[2:]
    elif len(path) == 3 and path[0] == "inputs":
        model, path = models.InputSettings, path[2:]
    for step in path[:-1]:
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            break
        model = _inner_model(model.model_fields[step].annotation) if step in model.model_fields else model
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []


def _inner_model(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _inner_model(argument)
        if found is not None:
            return found
    return None
