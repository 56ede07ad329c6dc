"""Merge beside PEFT: `python -m benchmarks.merge [--layers 12] [--rank 64] [--threads 2]`.

A random Qwen2-shaped checkpoint in bf16 with LoRA on every linear layer, merged by this project and by PEFT's
`merge_and_unload` + `save_pretrained`, each in a process of its own. One table: seconds, peak memory, output files,
and how many tensors are bit for bit `(W.float() + s * (B @ A)).to(bf16)` and how many equal PEFT's.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SHARD_GIB = 0.5
COMMAND = (sys.executable, "-m", "benchmarks.merge")


def build(folder: Path, layers: int, rank: int) -> None:
    """A base in shards of half a GiB, and an adapter whose factors are random."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 16, "num_key_value_heads": 4}
    config = Qwen2Config(num_hidden_layers=layers, vocab_size=32000, tie_word_embeddings=False, **shape)
    model = Qwen2ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder / "base", max_shard_size=int(SHARD_GIB * 2**30))
    adapted = get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LINEAR), autocast_adapter_dtype=True
    )
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    adapted.save_pretrained(folder / "adapter")


def ours(folder: Path, threads: int) -> None:
    """This project's merge into `folder/ours`."""
    from pipeline.merging.merge import merge_checkpoint

    merge_checkpoint(folder / "base", folder / "adapter", folder / "ours", "auto", SHARD_GIB, threads)


def peft(folder: Path, threads: int) -> None:
    """PEFT's own way into `folder/peft`."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.bfloat16)
    merged = PeftModel.from_pretrained(model, folder / "adapter").merge_and_unload()
    merged.save_pretrained(folder / "peft", max_shard_size=int(SHARD_GIB * 2**30))


def measured(way: str, folder: Path, threads: int) -> dict[str, float]:
    """Seconds and peak bytes of one way in a fresh process; imports are not counted in the seconds."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.merge",
        "--way",
        way,
        "--folder",
        str(folder),
        "--threads",
        str(threads),
    ]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def equal_tensors(folder: Path, way: str) -> tuple[int, int, int]:
    """Tensors in all, those equal to the float32 formula, those equal to PEFT's."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file

    factors = load_file(folder / "adapter" / "adapter_model.safetensors")
    adapter = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    scaling = adapter["lora_alpha"] / adapter["r"]
    base, result, theirs = (opened(folder / name) for name in ("base", way, "peft"))
    formula = as_peft = 0
    for name, file in base.items():
        with safe_open(file, "pt") as one, safe_open(result[name], "pt") as two, safe_open(theirs[name], "pt") as three:
            weight, merged, other = one.get_tensor(name), two.get_tensor(name), three.get_tensor(name)
        key = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{key}.lora_A.weight" in factors:
            product = factors[f"{key}.lora_B.weight"].float() @ factors[f"{key}.lora_A.weight"].float()
            weight = (weight.float() + scaling * product).to(weight.dtype)
        formula += torch.equal(weight, merged)
        as_peft += torch.equal(other, merged)
    return len(base), formula, as_peft


def opened(folder: Path) -> dict[str, Path]:
    """Tensor name to the file that holds it."""
    weight_map = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    return {name: folder / file for name, file in weight_map.items()}


def compare(layers: int, rank: int, threads: int) -> None:
    """Build, merge both ways, print the table."""
    with tempfile.TemporaryDirectory(prefix="merge-bench-") as name:
        folder = Path(name)
        subprocess.run(
            [*COMMAND, "--way", "build", "--folder", name, "--layers", str(layers), "--rank", str(rank)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        size = sum(file.stat().st_size for file in (folder / "base").glob("*.safetensors"))
        shard = max(file.stat().st_size for file in (folder / "base").glob("*.safetensors"))
        print(
            f"{size / 2e9:.2f} B parameters in bf16, r={rank}, largest shard {shard / 2**30:.2f} GiB, {threads} threads"
        )
        columns = ("seconds", "CPU seconds", "peak GiB", "tensors", "= formula", "= PEFT")
        print(f"{'':28}" + "".join(f"{column:>12}" for column in columns), flush=True)
        rows = {way: measured(way, folder, threads) for way in ("peft", "ours")}
        for way, label in (("peft", "PEFT merge_and_unload + save"), ("ours", "hanforge merge")):
            row, (total, formula, as_peft) = rows[way], equal_tensors(folder, way)
            print(
                f"{label:28}{row['seconds']:12.1f}{row['cpu_seconds']:12.1f}{row['peak_bytes'] / 2**30:12.2f}", end=""
            )
            print(f"{total:12}{formula:12}{as_peft:12}", flush=True)
        floor = time.monotonic()
        shutil.copytree(folder / "base", folder / "copy")
        print(f"{'plain copy of the base':28}{time.monotonic() - floor:9.1f}")


def main() -> None:
    """Compare, or do one way of it in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--way", choices=["build", "ours", "peft"])
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.way is None:
        compare(options.layers, options.rank, options.threads)
        return
    if options.way == "build":
        build(options.folder, options.layers, options.rank)
        return
    import peft as _peft  # noqa: F401
    import torch  # noqa: F401

    usage = resource.getrusage(resource.RUSAGE_SELF)
    began, cpu_before = time.monotonic(), usage.ru_utime + usage.ru_stime
    (ours if options.way == "ours" else peft)(options.folder, options.threads)
    seconds = time.monotonic() - began
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu_seconds = usage.ru_utime + usage.ru_stime - cpu_before
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": usage.ru_maxrss * 1024}))


if __name__ == "__main__":
    main()
