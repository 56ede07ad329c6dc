"""Which units of a stage a worker takes: the one rule for `--index I --of N`.

With create-only writes units belong to nobody: a worker begins at its share and then takes, in an order of its own,
what others have not done by then. Without them a second commit would overwrite the first, so each unit has one writer,
and whoever is through waits for the others.
"""

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TypeVar

from pipeline.store.stage import Stage

LOOK_SECONDS = 2.0
Unit = TypeVar("Unit")


def owner(position: int, of: int) -> int:
    """The index of the worker that a unit falls to first (without create-only writes: alone)."""
    return position % of


def share(stage: Stage, units: Sequence[Unit]) -> list[Unit]:
    """What this worker takes of all `units`, in its order: neighbours first, then the others' units shuffled.

    Two workers that help out follow different orders, so that they seldom meet in one unit: in one common order the
    helper would repeat, one behind the other, all that the helped one does.
    Example: worker 1 of 2, units a b c d -> [c, d, b, a]; in a store without create-only writes -> [b, d]
    """
    if not stage.store.exclusive:
        return [unit for position, unit in enumerate(units) if owner(position, stage.of) == stage.index]
    first, last = (len(units) * index // stage.of for index in (stage.index, stage.index + 1))
    others = [*units[:first], *units[last:]]
    random.Random(f"{stage.index} of {stage.of}").shuffle(others)
    return [*units[first:last], *others]


def undone(stage: Stage, units: Sequence[str]) -> Iterator[str]:
    """The units for this worker to do, each looked up right before it is given; at the end all units are committed.

    Raises Stopped when asked to stop.
    """
    for unit in share(stage, units):
        stage.stop.raise_if_requested()
        if unit not in stage.directory.done_names():
            yield unit
    wait_for_others(stage, lambda: set(units) - stage.directory.done_names())


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
