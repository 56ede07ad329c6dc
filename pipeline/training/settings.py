"""Settings of the kind `train`: keys carry the names that TRL, transformers and PEFT give them.

The total batch is `per_device_train_batch_size * gradient_accumulation_steps`; more devices divide the accumulation,
so that the optimizer sees the same batch anywhere. A setting that would have no effect is refused. Torch-free.
"""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from pipeline.recipe.fields import Closed, OutputType, StageSettings, operational
from pipeline.recipe.references import ModelReference, RowsReference

ALL_LINEAR: Literal["all-linear"] = "all-linear"


class LoraSettings(Closed):
    """PEFT's LoraConfig, as far as a recipe may set it; it reaches the language model only."""

    r: int = Field(default=16, ge=1)
    lora_alpha: int = Field(default=32, ge=1)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = ALL_LINEAR
    use_rslora: bool = False
    use_dora: bool = False
    bias: Literal["none"] = "none"
    modules_to_save: list[str] = Field(
        default=[], description="Modules trained in full beside the adapter, such as [embed_tokens, lm_head]."
    )
    ensure_weight_tying: bool = Field(
        default=False, description="Keep a tied lm_head equal to the trained embed_tokens. Needs tied weights."
    )

    @model_validator(mode="after")
    def _no_idle_setting(self) -> Self:
        if self.ensure_weight_tying and not {"embed_tokens", "lm_head"} & set(self.modules_to_save):
            raise ValueError("ensure_weight_tying has no effect unless modules_to_save names embed_tokens or lm_head")
        if "lm_head" in self.target_modules and self.target_modules != ALL_LINEAR:
            raise ValueError("lm_head cannot carry LoRA (the loss reads its weight); put it into modules_to_save")
        return self


class Bits4Settings(Closed):
    """How a 4-bit base is held; bitsandbytes' names without the prefix `bnb_4bit_`."""

    quant_type: Literal["nf4", "fp4"] = "nf4"
    use_double_quant: bool = True


class TrainSettings(StageSettings):
    """Supervised fine-tuning of a LoRA adapter on chat rows; loss on assistant turns only."""

    CONTRACT: ClassVar[int] = 2  # 2: the loss is the mean over a step's tokens for Qwen3-VL too
    COMPUTES: ClassVar[bool] = True
    OUTPUTS: ClassVar[dict[str, OutputType]] = {"adapter": "adapter", "rejects": "rejects"}

    kind: Literal["train"] = "train"
    base: ModelReference
    data: RowsReference | Annotated[list[RowsReference], Field(min_length=1)]
    eval_data: RowsReference | None = None
    eval_rows: int | None = Field(default=None, ge=1, description="At most so many rows of eval_data. Default: 256.")

    max_length: int = Field(default=4096, ge=8, description="Tokens of a row, prompt and answers together.")
    over_length: Literal["drop", "truncate", "error"] = Field(
        default="drop", description="What happens to a row longer than max_length. Dropped and cut rows are counted."
    )
    chat_template: Literal["keep", "thinking"] = Field(
        default="keep", description="`thinking` saves a template with the switch enable_thinking beside the adapter."
    )
    packing: bool = Field(default=False, description="Fill sequences of max_length with several rows (best fit).")
    train_sampling_strategy: Literal["random", "sequential", "group_by_length"] = "random"

    num_train_epochs: float | None = Field(default=None, gt=0, description="Default: 1, unless max_steps is given.")
    max_steps: int | None = Field(default=None, ge=1, description="Optimizer steps to take, in place of epochs.")
    per_device_train_batch_size: int = Field(default=4, ge=1)
    gradient_accumulation_steps: int = Field(default=4, ge=1)
    learning_rate: float = Field(default=2e-5, gt=0)
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    warmup_steps: float = Field(default=0, ge=0, description="Optimizer steps; below 1 a share of all of them.")
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, ge=0, description="Clip the gradient's norm; 0 does not clip.")
    optim: Literal["adamw_torch_fused", "adamw_torch", "adamw_8bit", "paged_adamw_8bit"] = "adamw_torch_fused"
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    adam_epsilon: float = Field(default=1e-8, gt=0)
    seed: int = Field(default=42, ge=0)
    lora: LoraSettings = LoraSettings()
    quantization: Literal["none", "8bit", "4bit"] = Field(
        default="none", description="How the frozen base is held: as it is, or through bitsandbytes."
    )
    bits4: Bits4Settings | None = Field(default=None, description="Details of quantization: 4bit.")
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        default="auto", description="auto: bf16 where the card has it in hardware, else fp16; fp32 on a CPU."
    )
    attention: Literal["auto", "sdpa", "varlen", "flash_attention_2", "eager"] = Field(
        default="auto",
        description="auto: the profile's. varlen (PyTorch's FlashAttention) and flash_attention_2 lay rows end to end "
        "instead of padding them; where they are not usable they give way to sdpa.",
    )
    gradient_checkpointing: bool = Field(default=True, description="Recompute activations: less memory, more time.")
    compile_layers: bool = Field(
        default=False, description="torch.compile each decoder layer: faster on a GPU, a minute at the start."
    )

    logging_steps: Annotated[int, operational] = Field(default=10, ge=1)
    save_steps: Annotated[int | None, operational] = Field(default=500, ge=1)
    save_seconds: Annotated[float | None, operational] = Field(
        default=1800, gt=0, description="Also save when the last checkpoint is this many seconds old."
    )
    save_total_limit: Annotated[int, operational] = Field(default=2, ge=1)
    eval_steps: Annotated[int | None, operational] = Field(
        default=None, ge=1, description="Evaluate every so many steps. Default: once, at the end."
    )
    report_to: Annotated[list[Literal["tensorboard", "wandb", "mlflow"]], operational] = ["tensorboard"]
    run_name: Annotated[str | None, operational] = Field(default=None, description="The run's name at wandb or mlflow.")
    dataloader_num_workers: Annotated[int, operational] = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _no_idle_setting(self) -> Self:
        _refuse_idle(self)
        return self

    @property
    def data_references(self) -> list[Any]:
        """The references of `data` as a list, in the recipe's order."""
        return list(self.data) if isinstance(self.data, list) else [self.data]

    @property
    def epochs(self) -> float:
        """Passes over the data when `max_steps` does not decide: num_train_epochs, by default 1."""
        return 1.0 if self.num_train_epochs is None else self.num_train_epochs

    @property
    def total_batch(self) -> int:
        """Rows (packed sequences when `packing`) of one optimizer step."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    @property
    def tokens_at_once(self) -> int:
        """Tokens of a full micro-batch: as many as a forward pass takes when rows are laid end to end."""
        return self.per_device_train_batch_size * self.max_length


def _refuse_idle(settings: TrainSettings) -> None:
    """Raise ValueError for a setting that would change nothing: the user believes that it does."""
    idle = {
        "bits4": (settings.bits4 is not None and settings.quantization != "4bit", "needs quantization: 4bit"),
        "eval_rows": (settings.eval_rows is not None and settings.eval_data is None, "needs eval_data"),
        "eval_steps": (settings.eval_steps is not None and settings.eval_data is None, "needs eval_data"),
        "num_train_epochs": (
            settings.num_train_epochs is not None and settings.max_steps is not None,
            "is replaced by max_steps; give one of them",
        ),
        "warmup_steps": (
            settings.warmup_steps > 0 and settings.lr_scheduler_type == "constant",
            "is ignored by the constant schedule; use constant_with_warmup",
        ),
        "run_name": (
            settings.run_name is not None and not {"wandb", "mlflow"} & set(settings.report_to),
            "needs wandb or mlflow in report_to",
        ),
        "train_sampling_strategy": (
            settings.packing and settings.train_sampling_strategy == "group_by_length",
            "group_by_length has no effect on packed sequences, which are all of one length",
        ),
    }
    for name, (is_idle, why) in idle.items():
        if is_idle:
            raise ValueError(f"{name}={getattr(settings, name)!r} has no effect: {why}")
    if settings.warmup_steps >= 1 and settings.warmup_steps != int(settings.warmup_steps):
        raise ValueError(f"warmup_steps={settings.warmup_steps!r} is neither a share below 1 nor a whole number")


def accumulation_for(settings: TrainSettings, world_size: int) -> int:
    """Micro-batches a device takes for one optimizer step, so that the recipe's total batch holds on any count.

    Example: batch 4, accumulation 4 -> 4 on one device, 2 on two, 1 on four; on three ValueError.
    """
    if settings.gradient_accumulation_steps % world_size:
        raise ValueError(
            f"gradient_accumulation_steps={settings.gradient_accumulation_steps} over {world_size} devices has a rest"
        )
    return settings.gradient_accumulation_steps // world_size
