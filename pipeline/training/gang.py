"""The processes that train one model together, on one node or several; a training in one process is a gang of one.

Each process computes on its own device; gradients are averaged by PyTorch (NCCL between cards, gloo on the CPU). What
they have to agree on besides, when to save and to stop above all, goes over a gloo group of its own. The first process
leads: it alone holds the lease and writes to the store.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from pipeline.recipe.profiles import Execution
from pipeline.training.hardware import require_device

T = TypeVar("T")
_WAIT = timedelta(days=7)  # for what the leader does meanwhile: waiting for a lease, tokenising, saving


@dataclass(frozen=True)
class Gang:
    """This process's place: `rank` of `size` processes, the `local_rank`-th of its node."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    control: Any = None

    @property
    def leads(self) -> bool:
        """Whether this process writes to the store."""
        return self.rank == 0

    @property
    def leads_node(self) -> bool:
        """Whether this process does what a node needs once."""
        return self.local_rank == 0

    def tell(self, value: T) -> T:
        """The leader's value, in every process."""
        told: list[T] = [value]
        if self.size > 1:
            dist.broadcast_object_list(told, src=0, group=self.control)
        return told[0]

    def collect(self, value: T) -> list[T]:
        """Every process's value by rank, in every process; returns when all have come this far."""
        values: list[Any] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value, group=self.control)
        return values

    def total(self, *values: float) -> list[float]:
        """The sums of these numbers over all processes."""
        numbers = torch.tensor(values, dtype=torch.float64)
        if self.size > 1:
            dist.all_reduce(numbers, group=self.control)
        return [float(number) for number in numbers]


@contextmanager
def joined(execution: Execution) -> Iterator[Gang]:
    """Meet the other processes that the run's lock says. UserError when this one was not started as one of them."""
    require_device(execution)
    if execution.world_size == 1:
        yield Gang()
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    if execution.device == "cuda":
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if execution.device == "cuda" else "gloo")
    yield Gang(dist.get_rank(), execution.world_size, local_rank, dist.new_group(backend="gloo", timeout=_WAIT))
    dist.destroy_process_group()  # not after an error: it would wait for collectives that nobody ends
