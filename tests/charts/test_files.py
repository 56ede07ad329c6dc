"""What the charts hold from elsewhere is fresh; every value is documented; Helm's linter has nothing to say."""

import json

import pytest
from helm_python import lint

from charts.generate import CHARTS, ROOT, generated, values
from pipeline.recipe.load import load_recipe
from pipeline.recipe.render import text
from tests.charts.rendering import STORE

NEEDED = {
    "hanforge": {"recipeName": "demo", "store": STORE},
    "hanforge-serve": {"model": "promoted@demo", "store": STORE},
}


def test_generated_files_are_fresh() -> None:
    files = generated()
    stale = [path for path, content in files.items() if not path.exists() or path.read_text("utf-8") != content]
    assert [str(path.relative_to(ROOT)) for path in stale] == [], "make chart-files brings them up to date"
    recipes = {path for path in files if path.parent.name == "recipes"}
    assert set((ROOT / "charts/hanforge/recipes").iterdir()) == recipes


def test_shipped_recipes_load_from_the_chart() -> None:
    for path in (ROOT / "charts/hanforge/recipes").iterdir():
        assert text(load_recipe(str(path))) == path.read_text("utf-8")


@pytest.mark.parametrize("chart", CHARTS)
def test_every_value_is_documented_in_sentences(chart: str) -> None:
    for value in values(chart):
        assert value.comment[:1].isupper() and value.comment.endswith("."), value


@pytest.mark.parametrize("chart", CHARTS)
def test_schema_and_values_have_the_same_keys(chart: str) -> None:
    def leaves(schema: dict[str, object], path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
        properties = schema.get("properties")
        if not isinstance(properties, dict) or path in whole:
            return {path}
        return {leaf for name, inner in properties.items() for leaf in leaves(inner, (*path, name))}

    whole = {value.path for value in values(chart)}  # documented as one value, such as serve's `engine`
    schema = json.loads((ROOT / "charts" / chart / "values.schema.json").read_text("utf-8"))
    assert leaves(schema) - {("global",)} == whole


@pytest.mark.parametrize("chart", CHARTS)
def test_lint(chart: str) -> None:
    report = lint(ROOT / "charts" / chart, NEEDED[chart], strict=True)
    assert report["errors"] == [] and all(message["severity"] < 2 for message in report["messages"])
