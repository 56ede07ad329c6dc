"""Settings: what would have no effect is refused, and more devices divide the accumulation."""

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.recipe.fields import resolved
from pipeline.training.settings import TrainSettings, accumulation_for


def settings(**values: Any) -> TrainSettings:
    return TrainSettings(base="org/model", data={"stage": "prepare"}, **values)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"bits4": {}}, "bits4"),
        ({"eval_steps": 5}, "eval_steps"),
        ({"eval_rows": 5}, "eval_rows"),
        ({"num_train_epochs": 2, "max_steps": 10}, "num_train_epochs"),
        ({"warmup_steps": 0.1, "lr_scheduler_type": "constant"}, "warmup_steps"),
        ({"warmup_steps": 1.5}, "warmup_steps"),
        ({"run_name": "mine"}, "run_name"),
        ({"packing": True, "train_sampling_strategy": "group_by_length"}, "group_by_length"),
        ({"lora": {"ensure_weight_tying": True}}, "ensure_weight_tying"),
        ({"lora": {"target_modules": ["lm_head"]}}, "lm_head"),
        ({"learning_rates": 1e-5}, "learning_rates"),
    ],
)
def test_a_setting_without_effect_is_refused(values: dict[str, Any], name: str) -> None:
    with pytest.raises(ValidationError, match=name):
        settings(**values)


def test_settings_written_out_are_read_back_as_they_were() -> None:
    for given in (
        settings(max_steps=3),
        settings(num_train_epochs=2.5, quantization="4bit"),
        settings(warmup_steps=0.03),
    ):
        assert TrainSettings.model_validate(resolved(given)) == given


def test_more_devices_divide_the_accumulation() -> None:
    four = settings(per_device_train_batch_size=4, gradient_accumulation_steps=4)
    assert four.total_batch == 16
    assert [accumulation_for(four, devices) for devices in (1, 2, 4)] == [4, 2, 1]
    with pytest.raises(ValueError, match="3 devices"):
        accumulation_for(four, 3)
