"""What a recipe says about merging an adapter into its base. Torch-free: the command line and the chart read it."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pipeline.recipe.fields import OutputType, StageSettings, operational
from pipeline.recipe.references import AdapterReference, ModelReference


class MergeSettings(StageSettings):
    """Merge an adapter into the 16-bit base that it was trained on and write one ordinary checkpoint."""

    CONTRACT: ClassVar[int] = 1
    OUTPUTS: ClassVar[dict[str, OutputType]] = {"model": "model"}

    kind: Literal["merge"] = "merge"
    adapter: AdapterReference = Field(description="The adapter: a train stage's output, or a folder in PEFT's format.")
    base: ModelReference | None = Field(
        default=None, description="The base checkpoint; left out, it is the one that the adapter's stage trained on."
    )
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        default="auto", description="Of the weights written; auto keeps each tensor as the base has it."
    )
    max_shard_gib: float = Field(
        default=4.0, gt=0, description="Largest safetensors file, unless one tensor is larger."
    )
    concurrency: Annotated[int, operational] = Field(
        default=4, ge=1, description="Weights merged at once; each adapted one takes its size in float32."
    )
