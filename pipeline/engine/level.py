"""How many requests one endpoint gets at once, found from what it says of itself.

A vLLM server tells its counts (docs.vllm.ai, "Production Metrics"): more while nothing waits; hold while a small queue
stands; less when the queue grows long; back off when it preempts, since its cache is full then and work is thrown away.
An endpoint that tells none gets more with each turn and half of it after a 429 or a timeout: additive increase,
multiplicative decrease (Chiu and Jain, 1989). `concurrency` is an upper bound in both cases.
"""

import time
from collections import deque
from dataclasses import dataclass
from typing import Literal

FIRST = 64
MOST = 4096
MOST_UNTOLD = 256
SMALL_QUEUE = 2
QUEUE_SHARE = 1 / 8  # of the running requests: what may wait, so that no slot is ever empty
STANDING_LOOKS = 3
STALE_LOOKS = 5  # at the same counts while the value doubles, before they are believed
PREEMPTED_SHARE = 0.8
STEP_SHARE = 1 / 16
IN_USE = 0.9

RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
PREEMPTIONS, STARTED = "vllm:num_preemptions_total", "process_start_time_seconds"


@dataclass(frozen=True)
class Load:
    """What a server said at one moment: requests that run and wait, preemptions since `started`."""

    running: float
    waiting: float
    preemptions: float
    started: float


def load_of(metrics: dict[str, float]) -> Load | None:
    """The load in a server's metrics; None when it does not tell what runs and what waits."""
    if RUNNING not in metrics or WAITING not in metrics:
        return None
    return Load(metrics[RUNNING], metrics[WAITING], metrics.get(PREEMPTIONS, 0.0), metrics.get(STARTED, 0.0))


class Level:
    """`value` is how many requests may be in flight. It doubles until the first sign of enough, then goes by steps.

    A turn is `value` answers: after a cut, and without counts, the value rises at most once a turn.
    """

    def __init__(self, concurrency: int | Literal["auto"]) -> None:
        self._bound = concurrency
        self._last: Load | None = None
        self._queues: deque[float] = deque(maxlen=STANDING_LOOKS)
        self._doubling, self._was_cut = True, False
        self._answers = 0  # since the value changed
        self._unchanged = 0  # looks in a row at which the server said the same
        self._changed = 0.0
        self.value = min(FIRST, self.most)

    @property
    def most(self) -> int:
        """What the value never exceeds."""
        if isinstance(self._bound, int):
            return self._bound
        return MOST if self._last is not None else MOST_UNTOLD

    @property
    def is_told(self) -> bool:
        """Whether the server has ever told its counts."""
        return self._last is not None

    @property
    def is_rising(self) -> bool:
        """Whether it still doubles, so that the next look is worth taking soon."""
        return self._doubling and self.value < self.most

    def answered(self, in_flight: int) -> None:
        """An answer came; `in_flight` counts it still."""
        self._answers += 1
        if self._last is None and self._answers >= self.value:
            self._raise(in_flight)

    def refused(self, sent: float) -> None:
        """A 429 or a timeout for a request sent at monotonic time `sent`; one cut stands for all that were out."""
        if sent >= self._changed:
            self._cut(self.value // 2)

    def told(self, load: Load, in_flight: int) -> None:
        """The server's counts, with what this client has in flight there."""
        before, self._last = self._last, load
        self._queues.append(load.waiting)
        unchanged = before is not None and (before.running, before.waiting) == (load.running, load.waiting)
        self._unchanged = self._unchanged + 1 if unchanged else 0
        small = max(SMALL_QUEUE, load.running * QUEUE_SHARE)
        standing = min(self._queues) if len(self._queues) == STANDING_LOOKS else 0.0
        same = before is not None and before.started == load.started  # behind one URL there may be several servers
        if same and before is not None and load.preemptions > before.preemptions and in_flight <= self.value:
            self._cut(int(self.value * PREEMPTED_SHARE))
        elif standing > small:
            ours = in_flight / max(load.running + load.waiting, in_flight, 1.0)
            self._doubling = False
            self._set(min(self.value, int(in_flight - (standing - small) * ours)))
            self._queues.clear()
        elif self._doubling and self._unchanged % STALE_LOOKS:
            return  # it has not counted yet what was sent since: an engine counts once a step
        elif load.waiting == 0 and (not self._was_cut or self._answers >= self.value):
            self._raise(in_flight)

    def _raise(self, in_flight: int) -> None:
        if in_flight >= IN_USE * self.value and self.value < self.most:
            step = self.value if self._doubling else max(1, int(self.value * STEP_SHARE))
            self._set(min(self.most, self.value + step))

    def _cut(self, value: int) -> None:
        self._doubling, self._was_cut = False, True
        self._changed = time.monotonic()
        self._set(value)

    def _set(self, value: int) -> None:
        self.value = max(1, value)
        self._answers = 0
