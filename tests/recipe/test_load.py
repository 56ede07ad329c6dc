"""Recipes are read with positions: every mistake names file, line, key, value and the nearest spelling."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.errors import UserError
from pipeline.recipe.load import load_recipe
from pipeline.recipe.models import digest, needs, order, rendered
from pipeline.recipe.render import text

GOOD = """\
name: tiny
inputs: {raw: {}}
stages:
  prepare: {kind: prepare, source: {input: raw}}
  phase1:
    kind: train
    base: ./base
    data: {stage: prepare}
    learning_rate: 1e-5
    lora: {r: 8}
  merge1: {kind: merge, adapter: {stage: phase1}}
"""


def write(folder: Path, text: str, name: str = "tiny.yaml") -> str:
    path = folder / name
    path.write_text(text, "utf-8")
    return str(path)


def test_numbers_are_yaml_1_2(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD))
    assert recipe.stages["phase1"].learning_rate == 1e-5  # type: ignore[union-attr]


def test_the_dag_is_derived(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD))
    assert needs(recipe) == {"prepare": [], "phase1": ["prepare"], "merge1": ["phase1"]}
    assert order(recipe) == ["prepare", "phase1", "merge1"]


def test_render_is_a_fixed_point(tmp_path: Path) -> None:
    from ruamel.yaml import YAML

    first = rendered(load_recipe(write(tmp_path, GOOD)))
    path = tmp_path / "rendered.yaml"
    YAML().dump(first, path)
    assert rendered(load_recipe(str(path))) == first


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("learning_rate", "learning_rates", 9, ["unknown key 'learning_rates'", "did you mean 'learning_rate'?"]),
        ("{r: 8}", "{rr: 8}", 10, ["unknown key 'rr'", "did you mean 'r'?"]),
        ("1e-5", "fast", 9, ["phase1.learning_rate", "got 'fast'"]),
        ("{stage: prepare}", "{stage: prepar}", 8, ["unknown stage 'prepar'", "did you mean 'prepare'?"]),
        ("{stage: prepare}", "{stage: prepare, output: rowz}", 8, ["no output 'rowz'", "did you mean 'rows'?"]),
        ("{stage: prepare}", "{stage: merge1}", 8, ["wants rows", "'merge1' gives model"]),
        ("kind: train", "kind: trian", 6, ["'trian' is not a kind of stage", "did you mean 'train'?"]),
        ("{input: raw}", "{input: row}", 4, ["unknown input 'row'", "did you mean 'raw'?"]),
        ("    base: ./base\n", "", 5, ["required key 'base' is missing"]),
        ("name: tiny", "name: Tiny Recipe", 1, ["name", "got 'Tiny Recipe'"]),
    ],
)
def test_a_mistake_names_place_value_and_remedy(
    tmp_path: Path, old: str, new: str, line: int, words: list[str]
) -> None:
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    assert f"{path}:{line}: " in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_duplicate_key_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tiny.yaml:3: .*duplicate key"):
        load_recipe(write(tmp_path, "name: tiny\nstages: {}\nname: tiny\n"))


def test_a_cycle_is_an_error(tmp_path: Path) -> None:
    text = GOOD.replace("kind: prepare, source", "kind: prepare, after: [merge1], source")
    with pytest.raises(UserError, match="cycle: .*prepare"):
        load_recipe(write(tmp_path, text))


def test_extends_overlays_and_sets_merge_in_order(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    child = write(
        tmp_path,
        "extends: tiny.yaml\nname: child\nstages: {phase1: {learning_rate: 3e-4, lora: {lora_alpha: 5}}}\n",
        "child.yaml",
    )
    overlay = write(tmp_path, "stages: {phase1: {max_length: 99}, merge1: null}\n", "overlay.yaml")
    recipe = load_recipe(child, [overlay], ["phase1.lora.r=3"])
    phase1 = recipe.stages["phase1"]
    assert (phase1.learning_rate, phase1.max_length, phase1.lora.r, phase1.lora.lora_alpha) == (3e-4, 99, 3, 5)  # type: ignore[union-attr]
    assert "merge1" not in recipe.stages and recipe.name == "child"


def test_a_mistake_in_set_and_overlay_is_placed_there(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    with pytest.raises(UserError, match=r"--set phase1\.lr=1: .*unknown key 'lr'"):
        load_recipe(path, sets=["phase1.lr=1"])
    overlay = write(tmp_path, "stages:\n  phase1:\n    max_lenght: 5\n", "overlay.yaml")
    with pytest.raises(UserError, match=r"overlay\.yaml:3: .*did you mean 'max_length'"):
        load_recipe(path, [overlay])


def test_an_unknown_recipe_lists_what_there_is() -> None:
    with pytest.raises(UserError, match="unknown recipe 'korean-vl'; did you mean 'korean-vla'"):
        load_recipe("korean-vl")


def test_set_reaches_keys_that_hold_dots(tmp_path: Path) -> None:
    text = (
        GOOD
        + """\
  evaluate: {kind: evaluate, model: {stage: merge1}, data: {stage: prepare}}
  promote:
    kind: promote
    model: {stage: merge1}
    scores: {stage: evaluate}
    limits: {data.off.exact: {min: 0.9}}
"""
    )
    sets = [
        "promote.limits.data.off.exact={min: 0.5}",
        "promote.limits.data.on.exact.min=0.7",
        "promote.max_drop.data.off.exact=0.02",
        "prepare.sources.cap.kowiki.v2=5",
        "phase1.lora.r=4",
    ]
    stages = load_recipe(write(tmp_path, text), sets=sets).stages
    settings = {name: stage.model_dump() for name, stage in stages.items()}
    limits = {key: bound["min"] for key, bound in settings["promote"]["limits"].items()}
    assert limits == {"data.off.exact": 0.5, "data.on.exact": 0.7}
    assert settings["promote"]["max_drop"] == {"data.off.exact": 0.02}
    assert settings["prepare"]["sources"]["cap"] == {"kowiki.v2": 5} and settings["phase1"]["lora"]["r"] == 4
    with pytest.raises(UserError, match=r"--set promote\.limits\.data\.off\.exact=high"):
        load_recipe(write(tmp_path, text), sets=["promote.limits.data.off.exact=high"])


def test_a_rendered_recipe_carries_a_digest_that_an_edit_belies(tmp_path: Path) -> None:
    rendered_text = text(load_recipe(write(tmp_path, GOOD)))
    path = tmp_path / "rendered.yaml"
    path.write_text(rendered_text)
    again = load_recipe(str(path))
    assert text(again) == rendered_text
    assert YAML(typ="safe").load(rendered_text)["digest"] == digest(again)
    path.write_text(rendered_text.replace("seed: 42", "seed: 43", 1))
    with pytest.raises(UserError, match=r"rendered.yaml:1: digest: .*Render it again, or take the line out"):
        load_recipe(str(path))
    name = next(iter(again.stages))
    load_recipe(str(path), sets=[f"{name}.rerun=1"])  # laid over on purpose


@pytest.mark.parametrize("word", ["off", "0b101", "1e234567", "12345678", "1:30", "y", "1_000", "~", "", ".5", "<<"])
def test_a_rendered_string_is_one_to_yaml_1_1_as_well(word: str) -> None:
    import yaml  # 1.1, as Helm's parser

    recipe = load_recipe("demo").model_copy(update={"description": word})
    assert yaml.safe_load(text(recipe))["description"] == word
