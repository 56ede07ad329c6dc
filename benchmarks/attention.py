"""Rows laid end to end by `varlen` attention beside padded rows by SDPA: the same loss and gradients, and how fast.

    python benchmarks/attention.py [--device cpu]

Three things, each printed as a table: the kernel alone against SDPA over each document in float32; one optimizer step
of small models of the families that the recipes name, through the train stage's own trainer, against the same step in
float32; milliseconds of forward and backward. An error of varlen far above that of SDPA in bf16 ends with exit code 1.
On a CPU (where the kernels are not) SDPA stands beside itself: it shows that the script runs.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from random_model import random_model
from torch.nn.functional import pad, scaled_dot_product_attention
from train import stand_in_tokenizer, table_head
from transformers import TrainerCallback

from pipeline.training.architecture import architecture_of
from pipeline.training.data import open_dataset, write_dataset
from pipeline.training.masks import IGNORED, Encoded
from pipeline.training.model import lora_config
from pipeline.training.settings import TrainSettings
from pipeline.training.trainer import Cadence, build_trainer, sft_arguments
from pipeline.training.varlen import attend

WORSE_AT_MOST = 1.5
"""Times the error of padded SDPA in bf16, both against float32."""
TEXT = {
    "vocab_size": 8192,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 8192,
}
VISION = {"depth": 1, "hidden_size": 64, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 1024}
ROPE = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
FAMILIES: dict[str, dict[str, Any]] = {
    "Qwen2.5": {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], **TEXT},
    "Llama": {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **TEXT},
    "Qwen3-VL on text": {
        "model_type": "qwen3_vl",
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "text_config": {"model_type": "qwen3_vl_text", **TEXT, "rope_parameters": ROPE},
        "vision_config": {**VISION, "deepstack_visual_indexes": [0]},
    },
}


def lengths_of(rows: int, mean: int, most: int) -> list[int]:
    """Log-normal lengths in tokens, as in benchmarks/train.py."""
    normal = torch.randn(rows, generator=torch.Generator().manual_seed(1)) * 0.8 - 0.32
    return [int(length) for length in (normal.exp() * mean).long().clamp(8, most)]


def documents(tensor: torch.Tensor, lengths: list[int]) -> list[torch.Tensor]:
    """[1, heads, tokens, size] cut into each document's own."""
    return list(tensor.split(lengths, dim=2))


def alone(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """SDPA over each document by itself: [1, tokens, heads, size]."""
    cut = zip(*(documents(one, lengths) for one in (query, key, value)), strict=True)
    outs = [scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True) for q, k, v in cut]
    return torch.cat(outs, dim=2).transpose(1, 2)


def laid(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """The attention under test: [1, tokens, heads, size]."""
    bounds = torch.tensor([0, *lengths], device=query.device).cumsum(0).to(torch.int32)
    out, _ = attend(torch.nn.Module(), query, key, value, None, cu_seq_lens_q=bounds, max_length_q=max(lengths))
    return out


def outcome(function: Callable[..., torch.Tensor], inputs: list[torch.Tensor], *given: Any) -> list[torch.Tensor]:
    """Output and gradients of a function whose output has the seeded gradient."""
    leaves = [one.detach().clone().requires_grad_() for one in inputs]
    out = function(*leaves, *given)
    generator = torch.Generator().manual_seed(2)
    gradient = torch.randn(out.shape, generator=generator).to(out.device, out.dtype)
    return [out, *torch.autograd.grad(out, leaves, gradient)]


def distance(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Relative L2 distance."""
    found, exact = found.detach().double(), exact.detach().double()
    return float((found - exact).norm() / exact.norm().clamp(min=1e-30))


def kernel_table(device: str) -> tuple[list[str], bool]:
    """Errors of output and gradients against float32, by attention; whether varlen's are like SDPA's."""
    lengths, dtype = [1, 7, 450, 33, 1200, 128, 64, 2], torch.bfloat16
    generator = torch.Generator().manual_seed(3)
    shapes = [(1, heads, sum(lengths), 128) for heads in (32, 8, 8)]
    inputs = [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]
    exact = outcome(alone, [one.float() for one in inputs], lengths)
    by = {"sdpa, each document alone": outcome(alone, inputs, lengths)}
    tested = "varlen" if device == "cuda" else "sdpa again"
    by[tested] = outcome(laid if device == "cuda" else alone, inputs, lengths)
    lines = [*table_head("attention, bf16, 32 heads, 8 of keys", "output", "d query", "d key", "d value")]
    errors = {name: [distance(*pair) for pair in zip(found, exact, strict=True)] for name, found in by.items()}
    lines += [f"| {name} | " + " | ".join(f"{error:.2e}" for error in found) + " |" for name, found in errors.items()]
    pairs = zip(errors[tested], errors["sdpa, each document alone"], strict=True)
    return lines, all(ours <= WORSE_AT_MOST * theirs for ours, theirs in pairs)


class KeepGradients(TrainerCallback):  # type: ignore[misc]
    """Copies the adapter's gradients before the optimizer takes them."""

    def __init__(self) -> None:
        self.gradient = torch.empty(0)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """All gradients as one vector."""
        self.gradient = torch.cat([p.grad.double().flatten().cpu() for p in model.parameters() if p.requires_grad])


def step(config: dict[str, Any], precision: Any, attention: str, device: Any, pieces: int) -> tuple[float, Any]:
    """Loss and gradients of one optimizer step of 4 x 4 rows, half of their tokens trained."""
    settings = TrainSettings(
        base="random/weights",
        data="random",
        max_length=2048 // pieces,
        max_steps=1,
        max_grad_norm=0.0,
        gradient_checkpointing=False,
        logging_steps=1,
        report_to=[],
        lora={"r": 16, "lora_alpha": 32},  # type: ignore[arg-type]
    )
    torch.manual_seed(0)
    model = random_model(config, torch.bfloat16, attention, "cpu").to(device)
    if precision == "fp32":
        model = model.float()
    generator = torch.Generator().manual_seed(4)
    rows = [torch.randint(0, 8192, (n,), generator=generator).tolist() for n in lengths_of(16, 200, 512)]
    encoded = (Encoded(ids, [IGNORED] * (len(ids) // 2) + ids[len(ids) // 2 :]) for ids in rows)
    kept, losses = KeepGradients(), []
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(
            model,
            stand_in_tokenizer(8192),
            sft_arguments(
                settings, Path(folder) / "out", precision, device=device, laid_end_to_end=attention == "varlen"
            ),
            lora_config(model, architecture_of(config, "benchmark"), settings.lora),
            open_dataset(write_dataset(Path(folder) / "rows.arrow", encoded)),
            None,
            cadence=Cadence(on_log=lambda _, logs: losses.extend([logs["loss"]] if "loss" in logs else [])),
            tokens_at_once=settings.tokens_at_once if attention == "varlen" else None,
        )
        trainer.add_callback(kept)
        for name, parameter in sorted(trainer.model.named_parameters()):
            if "lora_B" in name:  # zero at the start: A would have no gradient
                values = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
                parameter.data.copy_(values.to(device) * 0.02)
        trainer.train()
    return losses[0], kept.gradient


def model_table(device: str) -> tuple[list[str], bool]:
    """One step of each family: loss, and the gradients' relative distance from float32."""
    lines = [*table_head("model", "attention", "loss", "loss in float32", "gradients' error")]
    good = True
    for name, config in FAMILIES.items():
        exact_loss, exact = step(config, "fp32", "sdpa", device, 1)
        errors = []
        tested = [("varlen", 1), ("varlen", 4)] if device == "cuda" else [("sdpa", 1)]
        for attention, pieces in [("sdpa", 1), *tested]:
            loss, gradient = step(config, "bf16", attention, device, pieces)
            errors.append(distance(gradient, exact))
            said = "padded by sdpa" if attention == "sdpa" else f"end to end by varlen, {8192 // pieces} tokens at once"
            lines.append(f"| {name} | {said} | {loss:.4f} | {exact_loss:.4f} | {errors[-1]:.2e} |")
            good &= abs(loss - exact_loss) < 5e-3 and errors[-1] <= WORSE_AT_MOST * errors[0]
    return lines, good


def padded(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """SDPA over rows padded to the longest, four at a time, as padded micro-batches are."""
    outs = []
    for start in range(0, len(lengths), 4):
        rows, before = lengths[start : start + 4], sum(lengths[:start])
        stacked = [
            torch.cat([pad(row, (0, 0, 0, max(rows) - row.shape[2])) for row in part])
            for part in (one[:, :, before : before + sum(rows)].split(rows, dim=2) for one in (query, key, value))
        ]
        outs.append(scaled_dot_product_attention(*stacked, is_causal=True, enable_gqa=True).flatten())
    return torch.cat(outs)


def masked(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """SDPA over everything with a dense mask that keeps documents apart: how packed rows went before."""
    repeats = query.shape[1] // key.shape[1]
    of = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(query.device)
    mask = (of[:, None] == of[None]).tril()[None, None]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask)


def speed_table(device: str) -> list[str]:
    """Milliseconds of forward and backward of one layer's attention, 32 heads of 128, 8 of keys."""
    lines = [*table_head("documents", "tokens", "padded, 4 rows at once", "dense mask", "varlen")]
    for title, lengths in {"16 of mean 450": lengths_of(16, 450, 4096), "of 900 in 8,192": [900] * 9 + [92]}.items():
        inputs = [torch.randn(1, heads, sum(lengths), 128, device=device, dtype=torch.bfloat16) for heads in (32, 8, 8)]
        functions = [padded, masked, *([laid] if device == "cuda" else [])]
        times = []
        for function in functions:
            repeats = 10 if device == "cuda" else 1
            outcome(function, inputs, lengths)
            leaves = [one.requires_grad_() for one in inputs]
            out = function(*leaves, lengths)
            gradient = torch.randn_like(out)
            _wait(device)
            began = time.perf_counter()
            for _ in range(repeats):
                torch.autograd.grad(function(*leaves, lengths), leaves, gradient)
            _wait(device)
            times.append(1000 * (time.perf_counter() - began) / repeats)
        shown = " | ".join(f"{milliseconds:.2f}" for milliseconds in times)
        lines.append(f"| {title} | {sum(lengths):,} | {shown} |")
    return lines


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> int:
    """Print the three tables; 1 when varlen is further from float32 than it may be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    device = parser.parse_args().device
    torch.backends.cuda.matmul.allow_tf32 = False
    kernel, kernel_is_good = kernel_table(device)
    print("\n".join(kernel), flush=True)
    model, model_is_good = model_table(device)
    print("\n" + "\n".join(model), flush=True)
    if device == "cuda":
        print("\n" + "\n".join(speed_table(device)), flush=True)
    print(f"\nkernel {'agrees' if kernel_is_good else 'DIFFERS'}, models {'agree' if model_is_good else 'DIFFER'}")
    return 0 if kernel_is_good and model_is_good else 1


if __name__ == "__main__":
    sys.exit(main())
