"""Known models: the shapes really have the published numbers of parameters, and wrong ids name the right ones."""

import pytest

from pipeline.errors import UserError
from pipeline.recipe import known_models
from pipeline.recipe.known_models import check_model_id, known_config, licence_note, near_model_ids


@pytest.mark.parametrize("model_id", list(known_models._known()["models"]))
def test_a_shape_builds_a_model_with_the_published_number_of_parameters(model_id: str) -> None:
    import torch
    import transformers

    config = known_config(model_id)
    assert config is not None
    model_class = getattr(transformers, config.pop("architectures")[0])
    with torch.device("meta"):
        model = model_class(transformers.AutoConfig.for_model(**config))
    published = known_models._known()["models"][model_id]["parameters"]
    assert sum(parameter.numel() for parameter in model.parameters()) == published


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("LGAI-EXAONE/EXAONE-4.0-1.2B-Instruct", "LGAI-EXAONE/EXAONE-4.0-1.2B"),
        ("LGAI-EXAONE/EXAONE-4.0-3B", "LGAI-EXAONE/EXAONE-4.0-1.2B or LGAI-EXAONE/EXAONE-4.0-32B"),
        ("LGAI-EXAONE/EXAONE-4.0-3B-Instruct@main", "LGAI-EXAONE/EXAONE-4.0-32B"),
        ("Qwen/Qwen2.5-VL-30B-A3B-Instruct", "Qwen/Qwen3-VL-30B-A3B-Instruct"),
        ("Qwen/Qwen3-VL-8B", "Qwen/Qwen3-VL-8B-Thinking"),
        ("qwen/qwen2.5-14b-instruct", "Qwen/Qwen2.5-14B-Instruct"),
    ],
)
def test_a_wrong_id_is_refused_with_the_right_one(wrong: str, right: str) -> None:
    with pytest.raises(UserError) as refusal:
        check_model_id(wrong)
    assert right in str(refusal.value) and wrong.split("@")[0] in str(refusal.value)


@pytest.mark.parametrize(
    "model_id",
    [*known_models._known()["models"], "LGAI-EXAONE/EXAONE-4.0-32B-AWQ", "LGAI-EXAONE/EXAONE-4.0.1-32B", "me/mine"],
)
def test_right_and_unknown_ids_pass(model_id: str) -> None:
    check_model_id(model_id)


def test_the_teachers_licence_is_said_and_an_open_one_is_not() -> None:
    note = licence_note("LGAI-EXAONE/EXAONE-4.0-1.2B")
    assert note is not None and "commercial" in note
    assert licence_note("Qwen/Qwen3-VL-8B-Instruct") is None


def test_a_shape_is_the_callers_own_copy() -> None:
    first = known_config("Qwen/Qwen3-VL-8B-Instruct@abc")
    assert first is not None
    first["text_config"]["hidden_size"] = 1
    second = known_config("Qwen/Qwen3-VL-8B-Instruct")
    assert second is not None and second["text_config"]["hidden_size"] == 4096
    assert known_config("me/mine") is None


def test_near_ids_are_found_for_a_typing_error() -> None:
    assert near_model_ids("Qwen/Qwen3-VL-8B-Instuct")[0] == "Qwen/Qwen3-VL-8B-Instruct"
