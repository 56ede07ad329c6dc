"""The base model and its adapter: class, number format, quantisation and LoRA targets, from the settings and config.

The base is frozen; trainable parameters are float32 whatever the base's format is.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.training import varlen
from pipeline.training.architecture import Architecture, target_pattern
from pipeline.training.hardware import DTYPES, END_TO_END, Attention, Device, Precision
from pipeline.training.settings import Bits4Settings, LoraSettings, TrainSettings

LOG = logging.getLogger(__name__)
BITSANDBYTES_BLOCK = 64
"""bitsandbytes' CPU kernels crash on layers whose sizes are no multiples of this."""


def load_base(
    folder: Path,
    architecture: Architecture,
    settings: TrainSettings,
    precision: Precision,
    attention: Attention,
    device: Device,
) -> Any:
    """Load the checkpoint's own model class on this process's device, weights in `precision` or quantised."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    loader = AutoModelForImageTextToText if architecture.vision else AutoModelForCausalLM
    place = f"cuda:{torch.cuda.current_device()}" if device == "cuda" else "cpu"
    if attention == varlen.NAME:
        varlen.register()
    model = loader.from_pretrained(
        folder,
        dtype=DTYPES[precision],
        attn_implementation=attention,
        quantization_config=quantization_config(settings, DTYPES[precision]),
        device_map={"": place},
        trust_remote_code=False,
        local_files_only=True,
    )
    if attention in END_TO_END:
        varlen.check_model(model)
    return model


def quantization_config(settings: TrainSettings, compute_dtype: torch.dtype) -> Any:
    """bitsandbytes' configuration for the frozen base; None when it stays as it is."""
    from transformers import BitsAndBytesConfig

    if settings.quantization == "none":
        return None
    if settings.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    details = settings.bits4 or Bits4Settings()
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=details.quant_type,
        bnb_4bit_use_double_quant=details.use_double_quant,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def lora_config(model: nn.Module, architecture: Architecture, settings: LoraSettings) -> Any:
    """A fresh PEFT LoraConfig (PEFT changes the one it is given). Targets stay inside the language model."""
    from peft import LoraConfig

    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    missing = [name for name in settings.modules_to_save if not _has_module(model, name)]
    if missing:
        raise UserError(f"lora.modules_to_save names {missing}, which the model does not have", "Name its own modules.")
    embeddings = {"embed_tokens", "lm_head"} & set(settings.modules_to_save)
    if architecture.tied and embeddings and not settings.ensure_weight_tying:
        raise UserError(
            f"modules_to_save={settings.modules_to_save} on a base with tied embeddings: they would part ways",
            "Set lora.ensure_weight_tying: true.",
        )
    if settings.ensure_weight_tying and not architecture.tied:
        raise UserError("lora.ensure_weight_tying on a base whose lm_head is not tied", "Leave it out.")
    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=target_pattern(linear, settings.target_modules, vision=architecture.vision),
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        bias=settings.bias,
        modules_to_save=list(settings.modules_to_save) or None,
        ensure_weight_tying=settings.ensure_weight_tying,
        task_type="CAUSAL_LM",
    )


def _has_module(model: nn.Module, leaf: str) -> bool:
    return any(name.rsplit(".", 1)[-1] == leaf for name, _ in model.named_modules())


def trainable_to_float32(model: nn.Module) -> int:
    """Hold every trainable parameter in float32 and count them.

    TRL turns the adapters of a quantised base into bfloat16, which loses small updates and crashes with fp16's scaler.
    """
    count = 0
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
            count += parameter.numel()
    return count


def leave_casting_to_autocast(model: nn.Module) -> None:
    """Keep PEFT from turning each layer's input into the adapter's float32 only for autocast to turn it back.

    DoRA keeps PEFT's own way: it also multiplies with the base weight outside of a linear layer.
    """
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer) and not any(module.use_dora.values()):
            module.cast_input_dtype_enabled = False


def compile_decoder_layers(model: nn.Module) -> int:
    """`torch.compile` each decoder layer in place, so that one compilation serves all of them; how many there are."""
    compiled = 0
    for _, module in model.named_modules():
        if type(module).__name__.endswith("DecoderLayer"):
            module.compile(dynamic=None)
            compiled += 1
    if not compiled:
        raise UserError("compile_layers found no decoder layer in this model", "Set compile_layers: false.")
    return compiled


def check_quantised_shapes(config: dict[str, Any], quantization: str, device: str) -> None:
    """UserError on a CPU when bitsandbytes would crash on the layer sizes of `config` (the language model's)."""
    if quantization == "none" or device != "cpu":
        return
    for name in ("hidden_size", "intermediate_size"):
        size = config.get(name)
        if isinstance(size, int) and size % BITSANDBYTES_BLOCK:
            raise UserError(
                f"quantization {quantization!r} on a CPU with {name}={size}: not a multiple of {BITSANDBYTES_BLOCK}",
                "Set quantization: none, or train on a GPU.",
            )
