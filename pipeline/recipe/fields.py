"""The ground every kind's settings stand on: closed, frozen models, and the mark for fields that change no result.

A field is operational when two values of it give the same bytes (concurrency, retries, logging, prices,
aggregate limits of gates). Operational fields stay out of fingerprints.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

OutputType = Literal["rows", "rejects", "heldout", "adapter", "model", "scores", "predictions", "promotion", "proof"]


class Operational:
    """Marker: the field changes no result, so it stays out of fingerprints."""


operational = Operational()


class Closed(BaseModel):
    """A closed, frozen configuration model: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class StageSettings(Closed):
    """What every kind of stage has. `OUTPUTS` maps output names to types; the first is the main output.

    `CONTRACT` is the version of what the kind's code produces: raise it when the same settings give other bytes.
    """

    CONTRACT: ClassVar[int] = 1
    OUTPUTS: ClassVar[dict[str, OutputType]] = {}
    COMPUTES: ClassVar[bool] = False  # results depend on the card, precision and threads (train, evaluate)

    kind: str
    profile: Annotated[str, operational] = Field(
        default="cpu", description="Where the stage runs: a name in profiles.yaml."
    )
    after: Annotated[list[str], operational] = Field(
        default=[], description="Stages that must be done first although no data comes from them."
    )
    expected_rows: Annotated[int | None, operational] = Field(
        default=None, ge=1, description="How many rows `plan` reckons with until the stage has run."
    )
    rerun: int = Field(default=0, ge=0, description="Raise to compute the stage again on purpose.")

    def refusals(self, measurements: dict[str, Any]) -> list[str]:
        """For a gate: which of its limits the stored measurements miss, a sentence each. Other kinds have none."""
        return []


def is_operational(model: type[BaseModel], name: str) -> bool:
    """Whether the field `name` of `model` is marked operational."""
    return any(isinstance(mark, Operational) for mark in model.model_fields[name].metadata)


def resolved(model: BaseModel, *, with_operational: bool = True) -> dict[str, Any]:
    """The settings as plain JSON values with every default written out, operational fields optionally left out.

    Example: resolved(Settings(epochs=2), with_operational=False) -> {"kind": "train", "epochs": 2, "seed": 42}
    """
    out: dict[str, Any] = {}
    for name in type(model).model_fields:
        if with_operational or not is_operational(type(model), name):
            out[name] = _plain(getattr(model, name), with_operational)
    return out


def _plain(value: Any, with_operational: bool) -> Any:
    if isinstance(value, BaseModel):
        return resolved(value, with_operational=with_operational)
    if isinstance(value, dict):
        return {str(key): _plain(item, with_operational) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, with_operational) for item in value]
    return value
