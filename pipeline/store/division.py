"""Which units of a stage a worker takes: the one rule for `--index I --of N`.

With create-only writes units belong to nobody: a worker begins at its share and goes on with all others. Without them a
second commit would overwrite the first, so each unit has one writer, and whoever is through waits for the others.
"""

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from pipeline.store.stage import Stage

LOOK_SECONDS = 2.0
Unit = TypeVar("Unit")


def owner(position: int, of: int) -> int:
    """The index of the worker that a unit falls to first (without create-only writes: alone)."""
    return position % of


def share(stage: Stage, units: Sequence[Unit]) -> list[Unit]:
    """What this worker takes of all `units`, in its order.

    Example: worker 1 of 2, units a b c d -> [c, d, a, b]; in a store without create-only writes -> [b, d]
    """
    if not stage.store.exclusive:
        return [unit for position, unit in enumerate(units) if owner(position, stage.of) == stage.index]
    first = len(units) * stage.index // stage.of
    return [*units[first:], *units[:first]]


def wait_for_others(stage: Stage, missing: Callable[[], Collection[object]]) -> None:
    """Wait until nothing is `missing` of what other workers must do in a store without create-only writes.

    Raises Stopped when asked to stop.
    """
    if stage.store.exclusive or stage.of == 1:
        return
    while left := missing():
        stage.stop.raise_if_requested()
        stage.log.info("waiting for other workers: %d units are left, each has one writer in this store", len(left))
        stage.progress.update()
        stage.stop.wait(LOOK_SECONDS)
