"""Merge an adapter folder into a checkpoint folder: the whole of it, without a store."""

from pathlib import Path

from pipeline.merging.carry import carry_along
from pipeline.merging.plan import MergePlan, plan_merge
from pipeline.merging.write import write_file


def merge_checkpoint(
    base: Path, adapter: Path, out: Path, dtype: str = "auto", max_shard_gib: float = 4.0, concurrency: int = 1
) -> MergePlan:
    """Write the merged checkpoint into the folder `out`, ready for from_pretrained and vLLM; gives what was planned.

    Every changed weight is `(W.float() + s * (B @ A)).to(dtype)`, computed in float32 and rounded once. Peak memory is
    `concurrency` times one adapted weight in float32 with its factors. Raises UserError for an adapter of another base
    or a quantised base.
    """
    plan = plan_merge(base, adapter, dtype, max_shard_gib)
    out.mkdir(parents=True, exist_ok=True)
    for file in plan.files:
        write_file(file, out / file.name, concurrency=concurrency)
    carry_along(base, adapter, plan, out)
    return plan
