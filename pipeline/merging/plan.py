"""What a merge will write, decided from headers alone: which tensors, in which files, made of what, under which config.

Everything that can be wrong is found here, before a byte is written: an adapter of another base, trained weights that
belong nowhere, a tied head that was trained apart from its embedding.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.merging.adapter import Adapter, Change, open_adapter
from pipeline.merging.checkpoint import (
    FLOATS,
    ITEM_BYTES,
    Checkpoint,
    StoredTensor,
    check_recorded_base,
    open_checkpoint,
)
from pipeline.merging.names import NameMap, Tie, find_tie, is_tied, map_names, skeleton

DTYPES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
CONFIG_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


@dataclass(frozen=True)
class MergedTensor:
    """One tensor to write: `base` with `change` applied, as `dtype`; `shape` is the result's."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    base: StoredTensor
    change: Change | None = None

    @property
    def bytes(self) -> int:
        """Bytes of the result's data."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    @property
    def transposed(self) -> bool:
        """Whether the weight is stored [in, out] (`Conv1D`): told by its shape, by the adapter's config when square."""
        low_rank = self.change.low_rank if self.change else None
        if low_rank is None or low_rank.embedding:
            return False
        out, into = low_rank.b.shape[0], low_rank.a.shape[1]
        return low_rank.fan_in_fan_out if out == into else self.shape == (into, out)


@dataclass(frozen=True)
class MergedFile:
    """One safetensors file to write; tensors in the order of their bytes in it."""

    name: str
    tensors: tuple[MergedTensor, ...]

    @property
    def bytes(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.bytes for tensor in self.tensors)


@dataclass(frozen=True)
class MergePlan:
    """The whole result: files with their tensors, and the config that goes with them."""

    files: tuple[MergedFile, ...]
    config: dict[str, Any]
    untied: bool

    @property
    def tensors(self) -> Iterator[MergedTensor]:
        """Every tensor of every file."""
        return (tensor for file in self.files for tensor in file.tensors)


def plan_merge(base_folder: Path, adapter_folder: Path, dtype: str = "auto", max_shard_gib: float = 4.0) -> MergePlan:
    """Plan the merge of an adapter into a checkpoint from their headers; `dtype` is auto, bf16, fp16 or fp32.

    Raises UserError when the adapter is of another base (weights, shapes, names, architecture), naming what does not
    fit, and for what `open_checkpoint` and `open_adapter` refuse.
    """
    base, adapter = open_checkpoint(base_folder), open_adapter(adapter_folder)
    check_recorded_base(base, adapter_folder)
    _check_architecture(base, adapter)
    tie = find_tie(base) if _touches_a_tie(base, adapter) else None
    wanted = set(adapter.changes) | ({tie.embedding} if tie else set())
    names = map_names(base, wanted)
    changes, untied = _settle_tie(base, adapter, tie, names)
    _refuse_strangers(base, adapter, set(changes) - set(names.stored) - ({tie.head} if tie else set()), names)
    by_stored = {names.stored[memory]: change for memory, change in changes.items() if memory in names.stored}
    tensors = []
    for stored in base.tensors.values():
        if tie and stored.name == tie.head:
            continue  # shared with the embedding, or written anew beside it
        tensors.append(_merged(stored.name, stored, by_stored.get(stored.name), dtype, adapter))
        if tie and untied and stored.name == names.stored[tie.embedding]:
            tensors.append(_merged(tie.head, stored, changes.get(tie.head), dtype, adapter))
    config = _config(base, tensors, tie, untied, dtype, names)
    return MergePlan(_into_files(tensors, int(max_shard_gib * (1 << 30))), config, untied)


def _touches_a_tie(base: Checkpoint, adapter: Adapter) -> bool:
    """Whether the adapter changes something outside the layers while the config ties head and embedding."""
    return any(".layers." not in name for name in adapter.changes) and is_tied(base)


def _settle_tie(base: Checkpoint, adapter: Adapter, tie: Tie | None, names: NameMap) -> tuple[dict[str, Change], bool]:
    """The changes with a tied pair settled, and whether head and embedding part ways.

    They stay one when PEFT trained them as one: trained rows (its wrapper shares them), `ensure_weight_tying`, or
    the same trained values. Trained apart, or only one of them, they are two tensors from here on.
    """
    changes = dict(adapter.changes)
    if tie is None or not ({tie.head, tie.embedding} & set(changes)):
        return changes, False
    if tie.embedding not in names.stored:
        raise UserError(f"{base.folder}: the tied embedding {tie.embedding!r} is not in the checkpoint")
    head, embedding = changes.get(tie.head), changes.get(tie.embedding)
    shared = bool(adapter.config.get("ensure_weight_tying"))
    shared |= head is None and embedding is not None and embedding.rows is not None and embedding.low_rank is None
    shared |= head is not None and embedding is not None and _same_values(head, embedding)
    if not shared:
        return changes, True
    changes[tie.embedding] = embedding or head or Change()
    changes.pop(tie.head, None)
    return changes, False


def _same_values(one: Change, other: Change) -> bool:
    """Whether two changes put in exactly the same trained values (nothing adapted, bytes equal)."""
    if one.low_rank or other.low_rank or one.row_indices != other.row_indices:
        return False
    pairs = ((one.replacement, other.replacement), (one.rows, other.rows))
    return all(_same_bytes(left, right) for left, right in pairs)


def _same_bytes(left: StoredTensor | None, right: StoredTensor | None, block: int = 16 << 20) -> bool:
    if left is None or right is None:
        return left is right
    if (left.dtype, left.shape) != (right.dtype, right.shape):
        return False
    with left.file.open("rb") as one, right.file.open("rb") as other:
        one.seek(left.start)
        other.seek(right.start)
        for done in range(0, left.bytes, block):
            size = min(block, left.bytes - done)
            if one.read(size) != other.read(size):
                return False
    return True


def _refuse_strangers(base: Checkpoint, adapter: Adapter, unmatched: set[str], names: NameMap) -> None:
    """Every trained tensor must have a place in the base."""
    if names.relaid:
        raise UserError(
            f"{base.folder} stores {sorted(names.relaid)[:3]!r} in another layout than the model has in memory",
            "Adapters on such tensors (stacked or fused experts) cannot be merged here.",
        )
    if unmatched:
        keys = sorted(source.name for name in unmatched for source in adapter.changes[name].sources)
        raise UserError(
            f"{adapter.folder}: {len(keys)} trained tensors match nothing in {base.folder}, among them {keys[:4]!r}",
            f"The adapter was trained on another base{_named(adapter)}; name that one as `base`.",
        )


def _named(adapter: Adapter) -> str:
    return f" ({adapter.base_name!r})" if adapter.base_name else ""


def _merged(name: str, stored: StoredTensor, change: Change | None, dtype: str, adapter: Adapter) -> MergedTensor:
    """One result tensor, its change checked against the base's shape."""
    target = stored.dtype if dtype == "auto" or stored.dtype not in FLOATS else DTYPES[dtype]
    if change is None:
        return MergedTensor(name, target, stored.shape, stored)
    if stored.dtype not in FLOATS:
        raise UserError(f"{stored.file}: {name!r} is {stored.dtype}, and the adapter changes it", "Name a 16-bit base.")
    shape = change.replacement.shape if change.replacement else stored.shape
    grown = shape[1:] == stored.shape[1:] and len(shape) == 2 and name.endswith(("embed_tokens.weight", "head.weight"))
    if shape != stored.shape and not grown:
        _refuse_shape(adapter, name, list(shape), stored)
    merged = MergedTensor(name, target, shape, stored, change)
    if change.low_rank:
        out, into = change.low_rank.b.shape[0], change.low_rank.a.shape[1]
        fits = (into, out) if change.low_rank.embedding or merged.transposed else (out, into)
        if fits != shape:
            _refuse_shape(adapter, name, list(fits), stored)
    if change.rows and (change.rows.shape[1:] != shape[1:] or max(change.row_indices, default=0) >= shape[0]):
        _refuse_shape(adapter, name, list(change.rows.shape), stored)
    return merged


def _refuse_shape(adapter: Adapter, name: str, shape: list[int], stored: StoredTensor) -> None:
    raise UserError(
        f"{adapter.folder}: {name!r} was trained for a weight of {shape}, and {stored.file} has {list(stored.shape)}",
        f"The adapter was trained on another base{_named(adapter)}; name that one as `base`.",
    )


def _config(
    base: Checkpoint, tensors: list[MergedTensor], tie: Tie | None, untied: bool, dtype: str, names: NameMap
) -> dict[str, Any]:
    """The base's config.json with what the merge changed: dtype, tie, size of the vocabulary."""
    config = copy.deepcopy(base.config)
    inner = next((config[key] for key in ("text_config", "llm_config") if isinstance(config.get(key), dict)), None)
    if dtype != "auto":
        for part in (config, inner):
            if part is not None:
                key = "torch_dtype" if "torch_dtype" in part and "dtype" not in part else "dtype"
                part[key] = CONFIG_DTYPES[DTYPES[dtype]]
    if untied:
        config["tie_word_embeddings"] = False
        if inner is not None:
            inner["tie_word_embeddings"] = False
    resized = {t.shape[0] for t in tensors if t.change and t.change.replacement and t.shape != t.base.shape}
    if resized:
        _resize_vocabulary(base, inner if inner is not None else config, tensors, resized)
    return config


def _resize_vocabulary(
    base: Checkpoint, text_config: dict[str, Any], tensors: list[MergedTensor], sizes: set[int]
) -> None:
    """A resized embedding needs a head of as many rows, and the config's vocab_size says how many."""
    ends = ("embed_tokens.weight", "head.weight")
    rows = {t.name: t.shape[0] for t in tensors if t.name.endswith(ends) and len(t.shape) == 2}
    if len(set(rows.values())) != 1:
        raise UserError(f"{base.folder}: embedding and head have different numbers of rows after the merge: {rows}")
    text_config["vocab_size"] = next(iter(sizes))


def _into_files(tensors: list[MergedTensor], max_shard_bytes: int) -> tuple[MergedFile, ...]:
    """Cut the list into files of at most `max_shard_bytes` (a larger tensor has one of its own), in order.

    Within a file wider types come first, then names, as safetensors' own writer does: every tensor is aligned.
    """
    groups: list[list[MergedTensor]] = [[]]
    for tensor in tensors:
        if groups[-1] and sum(t.bytes for t in groups[-1]) + tensor.bytes > max_shard_bytes:
            groups.append([])
        groups[-1].append(tensor)
    files = []
    for number, group in enumerate(groups, 1):
        name = "model.safetensors" if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        group.sort(key=lambda tensor: (-ITEM_BYTES[tensor.dtype], tensor.dtype, tensor.name))
        files.append(MergedFile(name, tuple(group)))
    return tuple(files)


def _check_architecture(base: Checkpoint, adapter: Adapter) -> None:
    """Refuse an adapter whose recorded model class differs from the base's, when both are known."""
    recorded = (adapter.config.get("auto_mapping") or {}).get("base_model_class")
    architecture = (base.config.get("architectures") or [None])[0]
    if recorded and architecture and recorded != architecture and skeleton(base.folder) is not None:
        raise UserError(
            f"{adapter.folder} was trained on a {recorded}, and {base.folder} is a {architecture}",
            f"Name the base that it was trained on{_named(adapter)}.",
        )
