"""A merge's peak memory: bounded by one weight in float32, far below the file that it stands in."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

LAYERS, WIDTH, RANK = 48, 1024, 8
MEASURE = """
import resource, sys
from pathlib import Path
import torch
from pipeline.merging.merge import merge_checkpoint
base, warm, adapter, out = map(Path, sys.argv[1:])
torch.set_num_threads(1)
merge_checkpoint(warm, warm, out / "warm")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
merge_checkpoint(base, adapter, out / "merged")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def write(folder: Path, layers: int, adapter: Path) -> None:
    """A checkpoint of square bf16 weights with an adapter on each."""
    for path in (folder, adapter):
        path.mkdir(exist_ok=True)
    names = [f"model.layers.{layer}.mlp.up_proj" for layer in range(layers)]
    save_file(
        {f"{name}.weight": torch.randn(WIDTH, WIDTH).to(torch.bfloat16) for name in names}, folder / "model.safetensors"
    )
    factors = {}
    for name in names:
        factors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(RANK, WIDTH)
        factors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(WIDTH, RANK)
    save_file(factors, adapter / "adapter_model.safetensors")
    config = {"architectures": ["None"], "model_type": "none", "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": RANK}))


def test_peak_memory_is_a_few_weights_and_no_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    write(tmp_path / "base", LAYERS, tmp_path / "adapter")
    write(tmp_path / "warm", 1, tmp_path / "warm")
    arguments = [str(tmp_path / name) for name in ("base", "warm", "adapter", "out")]
    process = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True, timeout=300
    )
    grown = int(process.stdout) * 1024
    file = (tmp_path / "out" / "merged" / "model.safetensors").stat().st_size
    one_weight = 4 * WIDTH * WIDTH
    assert file > 90 << 20
    assert grown < 4 * one_weight < file / 4
