"""Merge an adapter folder into a checkpoint folder: the whole of it, without a store."""

from pathlib import Path

from pipeline.merging.adapter import Adapter, open_adapter
from pipeline.merging.carry import carry_along
from pipeline.merging.checkpoint import Checkpoint, open_checkpoint
from pipeline.merging.identity import check_recorded_base
from pipeline.merging.plan import MergePlan, check_architecture, plan_merge
from pipeline.merging.write import write_file, write_index


def prepare_merge(
    base: Path, adapter: Path, dtype: str = "auto", max_shard_gib: float = 4.0
) -> tuple[Checkpoint, Adapter, MergePlan]:
    """Open both folders and plan the merge from their headers. Raises UserError before anything is written."""
    checkpoint, trained = open_checkpoint(base), open_adapter(adapter)
    check_recorded_base(checkpoint, adapter)
    check_architecture(checkpoint, trained)
    return checkpoint, trained, plan_merge(checkpoint, trained, dtype, int(max_shard_gib * (1 << 30)))


def merge_checkpoint(
    base: Path, adapter: Path, out: Path, dtype: str = "auto", max_shard_gib: float = 4.0, concurrency: int = 1
) -> MergePlan:
    """Write the merged checkpoint into the folder `out`, ready for from_pretrained and vLLM; gives what was planned.

    Every changed weight is `(W.float() + s * (B @ A)).to(dtype)`, computed in float32 and rounded once. Peak memory is
    `concurrency` times one adapted weight in float32 with its factors. Raises UserError for an adapter of another base
    or a quantised base.
    """
    _, _, plan = prepare_merge(base, adapter, dtype, max_shard_gib)
    out.mkdir(parents=True, exist_ok=True)
    for file in plan.files:
        write_file(file, out / file.name, concurrency=concurrency)
    write_index(plan, out)
    carry_along(base, adapter, plan, out)
    return plan
