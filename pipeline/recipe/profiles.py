"""Profiles: where a stage runs, and what that decides about results (`Execution`)."""

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML

from pipeline.errors import UserError
from pipeline.recipe.fields import Closed

Precision = Literal["bf16", "fp16", "fp32"]


class Gpu(Closed):
    """The cards of a profile: how many, their memory in GiB each, and the labels that find their nodes."""

    name: str
    count: int = Field(ge=1)
    memory_gib: float = Field(gt=0)
    compute_capability: tuple[int, int]
    products: list[str] = []
    gke: list[str] = []
    karpenter: list[str] = []


class Profile(Closed):
    """One entry of profiles.yaml."""

    description: str = ""
    gpu: Gpu | None = None
    precision: Precision
    attention: Literal["sdpa", "varlen", "flash_attention_2", "eager"] = "sdpa"
    threads: int = Field(default=2, ge=1)
    host_memory_gib: float = 16.0
    price_per_gpu_hour_usd: float | None = None


class Execution(Closed):
    """What a profile decides about results. It stands in the run's lock and in fingerprints of stages that compute."""

    device: Literal["cpu", "cuda"]
    precision: Precision
    attention: str
    world_size: int
    threads: int


@cache
def profiles(path: str | None = None) -> dict[str, Profile]:
    """The shipped profiles, with a user's own file laid over them key by key.

    Example: a file with `h100: {price_per_gpu_hour_usd: 2.2}` changes that price and nothing else.
    """
    texts = [resources.files("pipeline.recipe").joinpath("profiles.yaml").read_text("utf-8")]
    if path is not None:
        try:
            texts.append(Path(path).read_text("utf-8"))
        except OSError as error:
            raise UserError(f"profiles file {path!r} cannot be read: {error}", "Correct --profiles") from error
    values: dict[str, object] = {}
    for text in texts:
        for name, given in (YAML(typ="safe").load(text) or {}).items():
            standing = values.get(name)
            values[name] = {**standing, **given} if isinstance(standing, dict) and isinstance(given, dict) else given
    try:
        return TypeAdapter(dict[str, Profile]).validate_python(values)
    except ValidationError as error:
        raise UserError(f"{path or 'profiles.yaml'}: {error}") from error


def execution(profile: Profile, precision: str = "auto", attention: str = "auto") -> Execution:
    """What a stage's settings become on a profile: `auto` gives way to what the card does in hardware."""
    return Execution(
        device="cuda" if profile.gpu else "cpu",
        precision=profile.precision if precision == "auto" else TypeAdapter(Precision).validate_python(precision),
        attention=profile.attention if attention == "auto" else attention,
        world_size=profile.gpu.count if profile.gpu else 1,
        threads=profile.threads,
    )
