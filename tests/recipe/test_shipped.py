"""The shipped recipes: they load, hold the user's hyperparameters, and the trial is a part of the whole."""

from typing import Any

import pytest

from pipeline.recipe.fields import resolved
from pipeline.recipe.kinds import KINDS
from pipeline.recipe.load import load_recipe, shipped_names
from pipeline.recipe.models import order

SHIPPED = ("demo", "demo-smollm", "korean-vla", "korean-vla-thinking", "korean-vla-trial", "multiturn-14b")
PACE = (
    "max_length",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
)


def stage(recipe: str, name: str) -> dict[str, Any]:
    """A stage's settings, every default written out."""
    return resolved(load_recipe(recipe).stages[name])


def test_every_recipe_is_shipped() -> None:
    assert set(SHIPPED) <= set(shipped_names())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_recipe_loads_and_tells_what_it_is(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name and recipe.description
    assert order(recipe)[-1] == "serve"


def test_the_demo_has_every_kind_of_stage() -> None:
    assert {settings.kind for settings in load_recipe("demo").stages.values()} == set(KINDS)


def test_korean_vla_has_the_users_hyperparameters() -> None:
    phase1, phase2 = stage("korean-vla", "phase1"), stage("korean-vla", "phase2")
    assert [phase1[name] for name in PACE] == [4096, 2, 4, 4, 2e-5]
    assert [phase2[name] for name in PACE] == [8192, 3, 2, 8, 1e-5]
    assert (phase1["lora"]["r"], phase1["lora"]["lora_alpha"]) == (16, 32)
    assert (phase2["lora"]["r"], phase2["lora"]["lora_alpha"]) == (32, 64)
    assert phase1["base"] == "Qwen/Qwen3-VL-8B-Instruct" and phase2["base"]["stage"] == "merge1"
    assert stage("korean-vla", "prepare_phase1")["target_samples"] == 256_000
    augment = stage("korean-vla", "augment")
    assert augment["teacher"]["model"] == "LGAI-EXAONE/EXAONE-4.0-1.2B"
    assert (augment["singleturn_ratio"], augment["sampling"]["temperature"]) == (0.7, 0.7)


def test_the_trial_is_korean_vla_with_fewer_reasoning_rows() -> None:
    whole, trial = resolved(load_recipe("korean-vla"))["stages"], resolved(load_recipe("korean-vla-trial"))["stages"]
    assert (whole["augment"].pop("sample_ratio"), trial["augment"].pop("sample_ratio")) == (1.0, 0.05)
    assert whole == trial


def test_the_thinking_variant_starts_from_the_published_checkpoint() -> None:
    stages = load_recipe("korean-vla-thinking").stages
    assert not {"phase1", "merge1"} & set(stages)
    assert stage("korean-vla-thinking", "phase2")["base"] == "Qwen/Qwen3-VL-8B-Thinking"


def test_multiturn_has_the_users_hyperparameters() -> None:
    train = stage("multiturn-14b", "train")
    assert [train[name] for name in PACE] == [4096, 3, 4, 4, 2e-4]
    assert (train["quantization"], train["save_steps"], train["gradient_checkpointing"]) == ("8bit", 500, True)
    assert [train["lora"][name] for name in ("r", "lora_alpha", "lora_dropout")] == [64, 128, 0.05]
