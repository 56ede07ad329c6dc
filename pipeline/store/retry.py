"""The one retry policy: full jitter, growing waits, a budget in seconds, then `Trouble`.

Everything that talks to a store or the Hub goes through `retried`; what counts as passing is decided here. The client
of an inference endpoint waits by the same rule, but obeys Retry-After and shares one budget over all its requests.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import stamina

from pipeline.errors import HanforgeError, Trouble, UserError
from pipeline.store.credentials import refusal

T = TypeVar("T")

_MOST = [float("inf")]  # the limits of the `patience` blocks that this process is in

FINAL = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
PASSING_MODULES = (
    "botocore",
    "aiobotocore",
    "aiohttp",
    "s3fs",
    "fsspec",
    "urllib3",
    "asyncio",
    "http",
    "httpx",
    "httpx2",
)


def patience_seconds() -> float:
    """How long one call to a store may be retried: HANFORGE_STORE_PATIENCE, 120 seconds by default."""
    return min(*_MOST, float(os.environ.get("HANFORGE_STORE_PATIENCE", "120")))


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Within the block no call is retried for longer: for last words, which must not hold up an end that is certain."""
    _MOST.append(seconds)
    try:
        yield
    finally:
        _MOST.pop()


def is_passing(error: Exception) -> bool:
    """Whether trying again can help: networks, throttling and lost answers, not a missing or an existing object."""
    if isinstance(error, (*FINAL, HanforgeError)) or is_full(error):
        return False
    if isinstance(error, (OSError, TimeoutError)):
        return True
    return type(error).__module__.split(".")[0] in PASSING_MODULES


def is_full(error: BaseException) -> bool:
    """Whether a disk has no space left: waiting does not mend that."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def retried(what: str, call: Callable[[], T]) -> T:
    """Call until it succeeds or the budget is spent; then raise `Trouble` naming `what` and the last error."""
    try:
        for attempt in stamina.retry_context(
            on=is_passing, attempts=None, timeout=patience_seconds(), wait_initial=0.1, wait_max=15.0, wait_jitter=1.0
        ):
            with attempt:
                return call()
    except Exception as error:
        if is_full(error):
            raise UserError(f"{what}: no space left on the disk", "Free space there, or use a larger disk") from error
        if not is_passing(error):
            raise
        why, remedy = refusal(error) or (type(error).__name__, "It outlasted its retries; run again")
        raise Trouble(f"{what}: {why}: {error}", remedy) from error
    raise AssertionError("unreachable: the retry loop returns or raises")
