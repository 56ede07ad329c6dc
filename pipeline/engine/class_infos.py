"""What vLLM finds out of a model's class by importing it in a process of its own (20 s), found when the image is made.

`VLLM_CACHE_ROOT=FOLDER python class_infos.py` writes it; `lay_out` copies it to where a new pod's vLLM looks. It is
vLLM's own cache, keyed by the hash of its sources, so a stale one is as good as none.
"""

import os
import shutil
import sys
from pathlib import Path

VARIABLE = "HANFORGE_VLLM_CACHE"  # in the image: the folder that was written
ARCHITECTURES = (
    "Exaone4ForCausalLM",
    "LlamaForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen2VLForConditionalGeneration",
    "Qwen2_5_VLForConditionalGeneration",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
    "Qwen3VLForConditionalGeneration",
    "Qwen3VLMoeForConditionalGeneration",
)


def lay_out() -> None:
    """Copy what the image brings into vLLM's cache; where nothing can be written there, vLLM looks by itself."""
    brought = os.environ.get(VARIABLE)
    if not brought or not Path(brought).is_dir():
        return
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        shutil.copytree(brought, os.environ.get("VLLM_CACHE_ROOT") or caches / "vllm", dirs_exist_ok=True)
    except OSError as error:
        print(f"vLLM's cache cannot be written, so its start takes longer: {error}", file=sys.stderr)


def write() -> None:
    """Look at each class in this process: importing them one after another takes seconds."""
    for name in ARCHITECTURES:
        try:
            from vllm.model_executor.models import registry

            registry._run_in_subprocess = lambda look: look()
            registry.ModelRegistry.models[name].inspect_model_cls()
        except Exception as error:  # noqa: BLE001 - a class that does not import here is looked at in the pod
            print(f"{name}: not looked at: {error}", file=sys.stderr)


if __name__ == "__main__":
    write()
