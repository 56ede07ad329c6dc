"""Loss, learning rate and speed of a training, from its metrics records."""

from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

Points = tuple[tuple[int, float], ...]
MOST_POINTS = 600


@dataclass(frozen=True)
class Curves:
    """Values by optimizer step; `tokens_per_second` is the median over the records, None when none was measured."""

    loss: Points
    eval_loss: Points
    learning_rate: Points
    tokens_per_second: float | None

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def curves(records: list[dict[str, Any]]) -> Curves:
    """The curves of a stage's metrics. A step that was trained again after a kill counts once, as it was last.

    At most 600 points each: of longer series every n-th and the last.
    """
    speeds = [float(record["tokens_per_second"]) for record in records if record.get("tokens_per_second")]
    return Curves(
        _series(records, "loss"),
        _series(records, "eval_loss"),
        _series(records, "learning_rate"),
        median(speeds) if speeds else None,
    )


def _series(records: list[dict[str, Any]], name: str) -> Points:
    values: dict[int, float] = {}
    for record in records:
        value, step = record.get(name), record.get("step")
        if isinstance(value, (int, float)) and isinstance(step, int):
            values[step] = float(value)
    ordered = sorted(values.items())
    stride = -(-len(ordered) // MOST_POINTS) if ordered else 1
    thinned = ordered[::stride]
    if ordered and thinned[-1] != ordered[-1]:
        thinned.append(ordered[-1])
    return tuple(thinned)
