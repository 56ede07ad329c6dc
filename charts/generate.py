"""`make chart-files`: what the charts hold that is written elsewhere, brought up to date. A test holds it fresh.

Recipes come from pipeline/recipes, profiles from pipeline/recipe, what both charts share from charts/hanforge. The
schemas are closed here, get their descriptions from the comments of values.yaml, and docs/charts.md its tables.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML

from pipeline.engine.settings import EngineSettings
from pipeline.recipe.load import load_recipe, shipped_names
from pipeline.recipe.profiles import Profile
from pipeline.recipe.render import text

ROOT = Path(__file__).parent.parent
CHARTS = ("hanforge", "hanforge-serve")


@dataclass(frozen=True)
class Value:
    """One value of a chart: its path, its default as JSON, and the sentences of its comment."""

    path: tuple[str, ...]
    default: str
    comment: str


def values(chart: str) -> list[Value]:
    """Every value that has a `# --` comment, and every leaf whether it has one or not, in the file's order."""
    content = (ROOT / "charts" / chart / "values.yaml").read_text("utf-8")
    found, comment, stack = [], [], list[tuple[int, str]]()
    defaults = YAML(typ="safe").load(content)
    for line in content.splitlines():
        words = line.strip()
        if words.startswith("#"):
            comment = [words[4:]] if words.startswith("# --") else [*comment, words[1:]]
        elif match := re.match(r"( *)([A-Za-z]+):", line):
            depth = len(match[1])
            stack = [item for item in stack if item[0] < depth] + [(depth, match[2])]
            path = tuple(name for _, name in stack)
            default = _at(defaults, path)
            if comment or not (isinstance(default, dict) and default):
                found.append(Value(path, json.dumps(default), " ".join(part.strip() for part in comment)))
            comment = []
        else:
            comment = []
    return found


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def closed(schema: dict[str, Any], comments: dict[tuple[str, ...], str], path: tuple[str, ...] = ()) -> dict[str, Any]:
    """The schema with every object's keys closed; `propertyNames` makes Helm's message name the valid ones."""
    out = {key: value for key, value in schema.items() if key not in ("propertyNames", "description")}
    if path in comments:
        out["description"] = comments[path]
    elif "description" in schema:
        out["description"] = schema["description"]
    if "properties" in schema:
        out["properties"] = {
            name: closed(inner, comments, (*path, name)) for name, inner in sorted(schema["properties"].items())
        }
        out["propertyNames"] = {"enum": list(out["properties"])}
        out["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            out[key] = closed(schema[key], comments, (*path, "*"))
    return out


def of_model(model: type[BaseModel]) -> dict[str, Any]:
    """A model's keys as values, none of them required: what is given is laid over defaults."""
    whole = model.model_json_schema()
    definitions = whole.pop("$defs", {})

    def opened(node: Any) -> Any:
        if isinstance(node, list):
            return [opened(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return opened(definitions[node["$ref"].rsplit("/", 1)[-1]])
        dropped = ("title", "default", "required", "additionalProperties")
        kept = {
            key: {name: opened(inner) for name, inner in value.items()} if key == "properties" else opened(value)
            for key, value in node.items()
            if key not in dropped or (key == "additionalProperties" and isinstance(value, dict))
        }
        if "anyOf" in kept:
            kept |= next(option for option in kept.pop("anyOf") if option.get("type") != "null")
        return kept

    out: dict[str, Any] = opened(whole)
    return out


def schema(chart: str) -> str:
    """The chart's values.schema.json."""
    standing = json.loads((ROOT / "charts" / chart / "values.schema.json").read_text("utf-8"))
    standing["properties"]["profiles"] = {"type": "object", "additionalProperties": of_model(Profile)}
    if chart == "hanforge-serve":
        standing["properties"]["engine"] = of_model(EngineSettings)
    standing["properties"]["global"] = {"type": "object", "description": "What Helm itself adds for subcharts."}
    comments = {value.path: value.comment for value in values(chart) if value.comment}
    return json.dumps(closed(standing, comments), indent=2, ensure_ascii=False) + "\n"


def documentation() -> str:
    """docs/charts.md with its tables of values."""
    page = (ROOT / "docs" / "charts.md").read_text("utf-8")
    for chart in CHARTS:
        rows = [f"| `{'.'.join(value.path)}` | `{value.default}` | {value.comment} |" for value in values(chart)]
        table = "\n".join(["| value | default | meaning |", "|---|---|---|", *rows])
        page = re.sub(
            rf"(<!-- values of {chart} -->\n).*?(\n<!-- end -->)",
            lambda found, table=table: f"{found[1]}{table}{found[2]}",
            page,
            flags=re.DOTALL,
        )
    return page


def generated() -> dict[Path, str]:
    """Every generated file of the charts by its path, as it should be."""
    charts = ROOT / "charts"
    files = {charts / "hanforge" / "recipes" / f"{name}.yaml": text(load_recipe(name)) for name in shipped_names()}
    profiles = (ROOT / "pipeline" / "recipe" / "profiles.yaml").read_text("utf-8")
    placement = (charts / "hanforge" / "templates" / "_placement.tpl").read_text("utf-8")
    for chart in CHARTS:
        files[charts / chart / "profiles.yaml"] = profiles
        files[charts / chart / "values.schema.json"] = schema(chart)
    files[charts / "hanforge-serve" / "templates" / "_placement.tpl"] = placement
    files[ROOT / "docs" / "charts.md"] = documentation()
    return files


def main() -> None:
    """Write what is not as it should be, and remove recipes that are no more."""
    files = generated()
    for path in (ROOT / "charts" / "hanforge" / "recipes").glob("*.yaml"):
        if path not in files:
            path.unlink()
    for path, content in files.items():
        if not path.exists() or path.read_text("utf-8") != content:
            path.write_text(content, "utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
