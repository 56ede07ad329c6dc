"""Counts against the published totals, optimizer steps by hand, memory against what was measured on one H100."""

from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.recipe import known_models
from pipeline.recipe.known_models import known_config
from pipeline.training.estimate import Estimate, checkpoint_bytes, estimate, optimizer_steps
from pipeline.training.parameters import lora_parameters, parameter_counts
from pipeline.training.settings import LoraSettings, TrainSettings
from tests.training.checkpoints import TEXT

QWEN3_VL, QWEN25 = "Qwen/Qwen3-VL-8B-Instruct", "Qwen/Qwen2.5-14B-Instruct"


def config(model: str) -> dict[str, Any]:
    found = known_config(model)
    assert found is not None
    return found


def settings(**values: Any) -> TrainSettings:
    return TrainSettings(base="org/model", data={"stage": "prepare"}, **values)


@pytest.mark.parametrize(
    "model",
    [
        QWEN3_VL,
        QWEN25,
        "Qwen/Qwen3-VL-30B-A3B-Instruct",
        "Qwen/Qwen2-VL-2B-Instruct",
        "LGAI-EXAONE/EXAONE-4.0-1.2B",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    ],
)
def test_parameters_equal_the_published_total(model: str) -> None:
    assert parameter_counts(config(model)).total == known_models._known()["models"][model]["parameters"]


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]])
def test_adapter_parameters_equal_what_peft_makes(targets: Any, use_dora: bool) -> None:
    from peft import get_peft_model
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from pipeline.training.architecture import architecture_of
    from pipeline.training.model import lora_config

    lora = LoraSettings(r=4, target_modules=targets, use_dora=use_dora, modules_to_save=["embed_tokens", "lm_head"])
    shape = {**TEXT, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "tie_word_embeddings": False}
    model = Qwen3ForCausalLM(Qwen3Config(**TEXT, tie_word_embeddings=False))
    assert parameter_counts(shape).total == sum(parameter.numel() for parameter in model.parameters())
    adapted = get_peft_model(model, lora_config(model, architecture_of(shape, "here"), lora))
    assert lora_parameters(parameter_counts(shape), lora) == adapted.get_nb_trainable_parameters()[0]


def test_optimizer_steps_of_the_shipped_recipes() -> None:
    phase1 = settings(num_train_epochs=2, per_device_train_batch_size=4, gradient_accumulation_steps=4)
    assert optimizer_steps(256_000, phase1) == 32_000
    assert optimizer_steps(256_000, phase1, world_size=4) == 32_000
    assert optimizer_steps(17, phase1) == 4
    assert optimizer_steps(17, settings(max_steps=9)) == 9


MEASURED = [
    (QWEN3_VL, {"max_length": 4096, "lora": {"r": 16}}, 26.5),
    (QWEN3_VL, {"max_length": 4096, "per_device_train_batch_size": 1, "gradient_checkpointing": False}, 47.9),
    (QWEN3_VL, {"max_length": 8192, "per_device_train_batch_size": 2, "lora": {"r": 32}}, 27.1),
    (QWEN25, {"max_length": 4096, "lora": {"r": 64}}, 44.1),
]


@pytest.mark.parametrize(("model", "values", "measured_gib"), MEASURED)
def test_memory_is_near_what_was_measured(model: str, values: dict[str, Any], measured_gib: float) -> None:
    total = estimate(config(model), settings(**values), rows=1000).total_gib
    assert abs(total - measured_gib) < 0.1 * measured_gib


def test_quantising_the_base_saves_its_linear_layers_memory() -> None:
    def weights(quantization: str) -> float:
        made = estimate(config(QWEN25), settings(quantization=quantization), rows=1)
        return made.memory_gib["weights"]

    assert weights("none") > 27 and 14 < weights("8bit") < 17 and 8 < weights("4bit") < 11


def test_the_arithmetic_is_told_in_lines() -> None:
    made: Estimate = estimate(config(QWEN3_VL), settings(num_train_epochs=2), rows=256_000, tokens_per_row=450)
    assert made.tokens == 230_400_000 and made.steps == 32_000
    assert any("2 epochs x 256,000 rows / (4 x 4) = 32,000" in line for line in made.lines)
    packed = estimate(config(QWEN3_VL), settings(packing=True), rows=256_000, tokens_per_row=450)
    assert packed.sequences == 28_699
    assert checkpoint_bytes(parameter_counts(config(QWEN3_VL)), settings()) == 43_646_976 * 12 + 16_000_000


def test_a_config_without_a_language_model_is_refused() -> None:
    with pytest.raises(UserError, match="hidden_size"):
        parameter_counts({"model_type": "vit"})
