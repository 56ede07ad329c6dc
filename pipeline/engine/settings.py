"""Settings of a vLLM server, of the client that asks it, and of the serve stage.

A field is fingerprinted when an answer can depend on it; where and how fast the server runs is operational.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field

from pipeline.recipe.fields import Closed, OutputType, StageSettings, operational
from pipeline.recipe.references import PromotionReference

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


class EngineSettings(Closed):
    """One vLLM server. Names are vLLM's own where it has one (https://docs.vllm.ai, `engine arguments`)."""

    max_model_len: int | None = Field(
        default=None, ge=16, description="Longest prompt plus answer, in tokens; null: what the checkpoint says."
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(default="auto", description="Weights' precision.")
    quantization: str | None = Field(default=None, description="vLLM's quantization method, e.g. fp8; null: none.")
    kv_cache_dtype: str = Field(default="auto", description="Precision of the key-value cache.")
    reasoning_parser: str | None = Field(
        default=None, description="vLLM's parser that sets reasoning apart from the answer, e.g. qwen3."
    )
    trust_remote_code: bool = Field(default=False, description="Run the checkpoint's own Python code.")
    extra_args: list[str] = Field(default=[], description="Further arguments of vLLM's server, as on its command line.")
    gpu_memory_utilization: Annotated[float, operational] = Field(
        default=0.9, gt=0, le=1, description="Share of the GPU's memory that vLLM takes."
    )
    tensor_parallel_size: Annotated[int, operational] = Field(default=1, ge=1, description="GPUs that share the model.")
    max_num_seqs: Annotated[int | None, operational] = Field(default=None, ge=1, description="Requests run at once.")
    kv_cache_gib: Annotated[int, operational] = Field(default=1, ge=1, description="Key-value cache on a CPU, in GiB.")
    enforce_eager: Annotated[bool | None, operational] = Field(
        default=None, description="Run without compiled graphs; null: on a CPU yes, on a GPU no."
    )
    startup_timeout_seconds: Annotated[float, operational] = Field(
        default=1800, gt=0, description="How long loading the model may take before the start counts as failed."
    )

    def at(self, precision: str) -> Self:
        """The settings with the run's dtype for `auto`, which vLLM takes for 16 bits of a float32 checkpoint."""
        return self.model_copy(update={"dtype": DTYPES[precision]}) if self.dtype == "auto" else self


class ClientSettings(Closed):
    """How hard and how long an endpoint is asked. Nothing here changes an answer."""

    concurrency: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto",
        description="Most requests in flight at once, over all endpoints; auto: as many as each endpoint takes.",
    )
    request_timeout_seconds: float = Field(default=600, gt=0, description="Longest wait for one answer.")
    attempts: int = Field(
        default=8, ge=1, description="Tries of a request that the server fails while it answers others."
    )
    outage_seconds: float = Field(
        default=600, gt=0, description="How long the endpoint may answer nothing at all before the process ends."
    )
    wait_initial_seconds: float = Field(default=0.5, gt=0, description="Upper end of the first wait before a retry.")
    wait_max_seconds: float = Field(default=30, gt=0, description="Upper end of any wait before a retry.")


class ServeSettings(StageSettings):
    """Serve the highest promotion of a recipe and prove it with an answered question."""

    CONTRACT: ClassVar[int] = 1
    OUTPUTS: ClassVar[dict[str, OutputType]] = {"proof": "proof"}

    kind: Literal["serve"] = "serve"
    promotion: PromotionReference = Field(description="The promote stage whose promotions are followed.")
    engine: EngineSettings = Field(default=EngineSettings(), description="The vLLM server.")
    question: str = Field(default="안녕하세요. 자기소개를 해 주세요.", description="What the served model is asked.")
    system_prompt: str | None = Field(default=None, description="The system turn before the question; null: none.")
    enable_thinking: bool = Field(default=False, description="Whether the question is asked with thinking on.")
    max_tokens: int = Field(default=512, ge=1, description="Longest answer to the question, in tokens.")
    client: Annotated[ClientSettings, operational] = Field(default=ClientSettings(), description="Retries, waits.")
