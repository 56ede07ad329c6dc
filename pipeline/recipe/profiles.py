"""Profiles: where a stage runs, and what that decides about results (`Execution`)."""

from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

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
    resource: str = Field(default="nvidia.com/gpu", description="What a pod asks for, e.g. nvidia.com/mig-3g.40gb")


class Toleration(Closed):
    """A taint that pods of a profile tolerate, beside the one named like the GPU's resource."""

    key: str
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class Profile(Closed):
    """One entry of profiles.yaml."""

    description: str = ""
    gpu: Gpu | None = None
    precision: Precision
    attention: Literal["sdpa", "varlen", "flash_attention_2", "eager"] = "sdpa"
    threads: int = Field(default=2, ge=1)
    processes: int | None = Field(default=None, ge=1, description="Training together on a node; null: one a card")
    nodes: int = Field(default=1, ge=1, description="That train together")
    host_memory_gib: float = Field(default=16.0, gt=0, description="A pod's memory, asked for and its limit")
    host_cpus: float = Field(default=1.0, gt=0, description="Cores that a pod asks for; it may use more")
    shm_gib: float = Field(default=1.0, gt=0, description="/dev/shm, a part of the pod's memory")
    node_labels: dict[str, str] = Field(default={}, description="Labels that a node must carry besides")
    tolerations: list[Toleration] = []
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
    values: dict[str, Any] = {}
    for text in texts:
        values = laid_over(values, YAML(typ="safe").load(text) or {})
    try:
        return TypeAdapter(dict[str, Profile]).validate_python(values)
    except ValidationError as error:
        raise UserError(f"{path or 'profiles.yaml'}: {error}") from error


def laid_over(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` upon `base`. Example: {"store": {"url": "a"}}, {"store": {"secret": "s"}} -> both keys of `store`"""
    out = dict(base)
    for key, value in over.items():
        standing = out.get(key)
        both = isinstance(standing, dict) and isinstance(value, dict)
        out[key] = laid_over(standing, value) if both else value  # type: ignore[arg-type]
    return out


def profile_names(owns: dict[str, str], override: str | None) -> dict[str, str]:
    """Each stage's profile: its own, `override` for all of them, or what `override` says of single ones.

    Example: profile_names({"phase1": "h100", "merge1": "cpu"}, "phase1=a100") -> {"phase1": "a100", "merge1": "cpu"}
    """
    if override is None or "=" not in override:
        return dict.fromkeys(owns, override) if override else owns
    given = dict(part.strip().partition("=")[::2] for part in override.split(","))
    wrong = [stage for stage, name in given.items() if stage not in owns or not name]
    if wrong:
        raise UserError(
            f"profile {override!r}: {wrong[0]!r} gives no stage of this recipe a profile",
            f"Say PROFILE, or STAGE=PROFILE with commas between; stages: {', '.join(owns)}",
        )
    return owns | given


def execution(profile: Profile, precision: str = "auto", attention: str = "auto") -> Execution:
    """What a stage's settings become on a profile: `auto` gives way to what the card does in hardware."""
    return Execution(
        device="cuda" if profile.gpu else "cpu",
        precision=profile.precision if precision == "auto" else TypeAdapter(Precision).validate_python(precision),
        attention=profile.attention if attention == "auto" else attention,
        world_size=profile.nodes * (profile.processes or (profile.gpu.count if profile.gpu else 1)),
        threads=profile.threads,
    )
