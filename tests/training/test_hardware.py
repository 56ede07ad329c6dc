"""What the card does in hardware decides, not what is emulated."""

from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.recipe.profiles import Execution
from pipeline.training.architecture import architecture_of, target_pattern
from pipeline.training.hardware import choose_attention, choose_precision, require_device, require_packages
from pipeline.training.templates import has_thinking_switch, thinking_template


@pytest.mark.parametrize(
    ("asked", "device", "capability", "chosen"),
    [
        ("auto", "cuda", (9, 0), "bf16"),
        ("auto", "cuda", (8, 0), "bf16"),
        ("auto", "cuda", (7, 5), "fp16"),
        ("auto", "cuda", (7, 0), "fp16"),
        ("auto", "cpu", None, "fp32"),
        ("fp32", "cuda", (9, 0), "fp32"),
        ("fp16", "cuda", (9, 0), "fp16"),
        ("bf16", "cpu", None, "bf16"),
    ],
)
def test_precision_follows_the_hardware(asked: str, device: Any, capability: Any, chosen: str) -> None:
    assert choose_precision(asked, device=device, capability=capability) == chosen


@pytest.mark.parametrize(("asked", "device", "capability"), [("bf16", "cuda", (7, 5)), ("fp16", "cpu", None)])
def test_a_format_that_the_hardware_lacks_is_refused(asked: str, device: Any, capability: Any) -> None:
    with pytest.raises(UserError, match=asked):
        choose_precision(asked, device=device, capability=capability)


def test_flash_attention_falls_back_where_it_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    assert choose_attention("flash_attention_2") == "sdpa"
    assert "using sdpa" in caplog.text


def locked(device: Any, world_size: int) -> Execution:
    return Execution(device=device, precision="fp32", attention="sdpa", world_size=world_size, threads=1)


def test_a_lock_for_a_gpu_is_refused_on_a_cpu() -> None:
    with pytest.raises(UserError, match="trains on 1 GPUs or more here, and torch sees 0"):
        require_device(locked("cuda", 1))


def test_a_process_that_was_not_started_as_the_lock_says_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="2 processes train together, and this is one of 1.*Start `hanforge stage`"):
        require_device(locked("cpu", 2))
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match="1 processes train together, and this is one of 4"):
        require_device(locked("cpu", 1))


def test_a_missing_reporting_package_is_named() -> None:
    with pytest.raises(UserError, match="no_such_tracker"):
        require_packages(["no_such_tracker"])


LINEAR = [
    "model.visual.blocks.0.attn.qkv",
    "model.language_model.layers.0.self_attn.q_proj",
    "model.language_model.layers.0.mlp.up_proj",
    "lm_head",
]


def test_adapters_stay_out_of_the_vision_tower_and_of_the_head() -> None:
    import re

    pattern = target_pattern(LINEAR, "all-linear", vision=True)
    assert [name for name in LINEAR if re.fullmatch(pattern, name)] == LINEAR[1:3]
    with pytest.raises(UserError, match="qkv"):
        target_pattern(LINEAR, ["qkv"], vision=True)


def test_a_checkpoint_with_code_of_its_own_is_refused() -> None:
    config = {"architectures": ["Phi3VForCausalLM"], "model_type": "phi3_v", "auto_map": {"AutoConfig": "x.Y"}}
    with pytest.raises(UserError, match="never run"):
        architecture_of(config, "there")


def test_a_template_with_the_switch_keeps_it_and_another_family_has_none() -> None:
    own = "{% if enable_thinking %}x{% endif %}"
    assert thinking_template(own) == own
    assert not has_thinking_switch("{# enable_thinking #}<|im_start|>")
    assert has_thinking_switch(thinking_template("<|im_start|>{{ x }}<|im_end|>"))
    with pytest.raises(UserError, match="ChatML"):
        thinking_template("<|start_header_id|>")
