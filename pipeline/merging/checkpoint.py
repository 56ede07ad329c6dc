"""A checkpoint on disk, opened without reading its weights: config, and where every tensor lies in which file.

Invariants: nothing here loads a tensor, so opening an 8B checkpoint costs a few file headers; a checkpoint that
cannot be merged into (quantised, pickled, cut short) is refused here with the reason.
Format: https://huggingface.co/docs/safetensors/index#format
"""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
}  # fmt: skip
FLOATS = ("F32", "F16", "BF16", "F64")
INDEX_NAME = "model.safetensors.index.json"
HEADER_LIMIT_BYTES = 100_000_000  # the format's own limit
RECORD_NAME = "hanforge.json"  # beside an adapter: {"base": {"weights": <digest>}}
SAMPLE_BYTES = 1024


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a safetensors file: its type name there, its shape, and its bytes `[start, end)` of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    end: int

    @property
    def bytes(self) -> int:
        """Bytes of the tensor's data."""
        return self.end - self.start


@dataclass(frozen=True)
class Checkpoint:
    """A folder with `config.json` and safetensors weights."""

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, StoredTensor]  # in file order, then by offset: reading them so is sequential


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open a 16- or 32-bit safetensors checkpoint. Raises UserError when there is none, or it is quantised or cut."""
    config = read_json(folder / "config.json", "a checkpoint has a config.json")
    quantisation = config.get("quantization_config") or (config.get("text_config") or {}).get("quantization_config")
    if quantisation:
        method = quantisation.get("quant_method", "unknown") if isinstance(quantisation, dict) else quantisation
        raise UserError(
            f"{folder}: the base is quantised ({method!r}), and merging into rounded weights would give another model",
            "Name the 16-bit checkpoint as `base`; an adapter trained on its quantised form fits it.",
        )
    tensors: dict[str, StoredTensor] = {}
    for file in _weight_files(folder):
        tensors.update({tensor.name: tensor for tensor in read_header(file)})
    rounded = next(
        (t for t in tensors.values() if t.dtype.startswith("F8") or t.name.endswith((".qweight", ".SCB"))), None
    )
    if rounded:
        raise UserError(
            f"{rounded.file}: tensor {rounded.name!r} is {rounded.dtype}, so the base is quantised",
            "Name the 16-bit checkpoint as `base`.",
        )
    return Checkpoint(folder, config, tensors)


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up the model, in the index's order, or the single one."""
    index = folder / INDEX_NAME
    if index.exists():
        weight_map = read_json(index, "it maps tensors to files").get("weight_map", {})
        files = [folder / name for name in sorted(set(weight_map.values()))]
        missing = [file.name for file in files if not file.exists()]
        if missing:
            raise UserError(f"{index} names files that are not there: {missing[:5]!r}", "Fetch the checkpoint again.")
        return files
    files = sorted(file for file in folder.glob("*.safetensors") if not file.name.startswith("adapter_"))
    if len(files) == 1:
        return files
    if files:
        raise UserError(
            f"{folder} has {len(files)} safetensors files and no {INDEX_NAME}", "Fetch the checkpoint again."
        )
    if (folder / "adapter_config.json").exists():
        raise UserError(f"{folder} holds an adapter, not a checkpoint", "Name the model that it was trained on.")
    others = sorted(file.name for pattern in ("*.bin", "*.gguf", "*.pt") for file in folder.glob(pattern))
    raise UserError(
        f"{folder} has no safetensors weights" + (f", only {others[:3]!r}" if others else ""),
        "Save the checkpoint with transformers' save_pretrained, which writes safetensors.",
    )


def read_header(file: Path) -> list[StoredTensor]:
    """Every tensor of a safetensors file, in the order of their bytes. Raises UserError for a cut or foreign file."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, HEADER_LIMIT_BYTES):
            raise UserError(f"{file} ({size} bytes) is not a whole safetensors file", "Fetch or produce it again.")
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise UserError(f"{file} is not a safetensors file: {error}", "Fetch or produce it again.") from error
    header.pop("__metadata__", None)
    found = [_stored(name, entry, file, 8 + length) for name, entry in header.items()]
    found.sort(key=lambda tensor: tensor.start)
    if found and found[-1].end > size:
        raise UserError(
            f"{file} is cut short: {size} bytes, and {found[-1].name!r} ends at {found[-1].end}", "Fetch it again."
        )
    return found


def _stored(name: str, entry: dict[str, Any], file: Path, data_start: int) -> StoredTensor:
    start, end = entry["data_offsets"]
    shape = tuple(int(n) for n in entry["shape"])
    expected = math.prod(shape) * ITEM_BYTES.get(entry["dtype"], -1)
    if expected >= 0 and expected != end - start:
        raise UserError(f"{file}: {name!r} of {entry['dtype']} {list(shape)} has {end - start} bytes, not {expected}")
    return StoredTensor(name, entry["dtype"], shape, file, data_start + start, data_start + end)


def weights_digest(checkpoint: Checkpoint) -> str:
    """A hash over every tensor's name, type, shape and 1 KiB from its middle: 32 hex digits, a second for 8B weights.

    How the tensors are cut into files, and where these lie, does not matter.
    """
    digest = hashlib.sha256()
    for name in sorted(checkpoint.tensors):
        tensor = checkpoint.tensors[name]
        with tensor.file.open("rb") as stream:
            stream.seek(tensor.start + max(0, (tensor.bytes - SAMPLE_BYTES) // 2))
            sample = stream.read(min(SAMPLE_BYTES, tensor.bytes))
        digest.update(json.dumps([name, tensor.dtype, tensor.shape]).encode() + sample)
    return digest.hexdigest()[:32]


def check_recorded_base(checkpoint: Checkpoint, adapter: Path) -> None:
    """Refuse an adapter whose record names other weights than the checkpoint's; one without a record passes."""
    path = adapter / RECORD_NAME
    if not path.exists():
        return
    recorded = read_json(path, "it says what made the adapter").get("base")
    if not isinstance(recorded, dict) or not recorded.get("weights"):
        return
    found = weights_digest(checkpoint)
    if recorded["weights"] != found:
        name = recorded.get("name") or recorded.get("identity") or "another checkpoint"
        raise UserError(
            f"{adapter} was trained on {name!r} (weights {recorded['weights']}), and {checkpoint.folder} holds {found}",
            "Name the base that it was trained on.",
        )


def read_json(path: Path, rule: str) -> dict[str, Any]:
    """A JSON object from a file. Raises UserError, naming `rule`, when it is missing or broken."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: {rule}", "Check the reference or the path.") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}", "Fetch or produce it again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {type(content).__name__}, not an object")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON as transformers does: indented by two, keys in their order, UTF-8."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
