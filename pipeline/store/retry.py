"""The one retry policy: full jitter, growing waits, a budget in seconds, then `Trouble`.

Everything that talks to a store or the Hub goes through `retried`; what counts as passing is decided here. The client
of an inference endpoint waits by the same rule, but obeys Retry-After and shares one budget over all its requests.

Nobody here keeps keys. botocore renews by itself what can be renewed (roles of pods and machines, web identities,
credential processes). A credentials file it reads once: after a refusal the connection is opened anew, so that a stage
that runs takes up a file that was renewed meanwhile. An environment is what it was when its process started.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import stamina

from pipeline.errors import HanforgeError, Trouble, UserError

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


EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"})
SKEWED = frozenset({"RequestTimeTooSkewed"})
REFUSED = frozenset({"AccessDenied", "Forbidden", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch", "403"})
BARE = "400"  # all that a HEAD request says of an expired token

_SENTENCES = {
    EXPIRED: (
        "the store refused the credentials: they have expired",
        "Renew them (role, credentials file, environment) and run again: what is committed stays",
    ),
    SKEWED: (
        "the store refused the request's time: this machine's clock is more than 15 minutes off",
        "Set the clock (chrony, NTP) and run again: what is committed stays",
    ),
    REFUSED: ("the store refused the credentials", "Check the keys, their expiry and the bucket's policy"),
}


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


def retried(what: str, call: Callable[[], T], filesystem: Any = None) -> T:
    """Call until it succeeds or the budget is spent; then raise `Trouble` naming `what` and the last error.

    `filesystem` is the one called: after a refusal it is connected anew, so that renewed credentials are taken up.
    """
    try:
        for attempt in stamina.retry_context(
            on=is_passing, attempts=None, timeout=patience_seconds(), wait_initial=0.1, wait_max=15.0, wait_jitter=1.0
        ):
            with attempt:
                return _taking_up(filesystem, call)
    except Exception as error:
        if is_full(error):
            raise UserError(f"{what}: no space left on the disk", "Free space there, or use a larger disk") from error
        if not is_passing(error):
            raise
        why, remedy = refusal(error) or (type(error).__name__, "It outlasted its retries; run again")
        raise Trouble(f"{what}: {why}: {error}", remedy) from error
    raise AssertionError("unreachable: the retry loop returns or raises")


def refusal(error: BaseException) -> tuple[str, str] | None:
    """What a refusal means and what to do about it; None for an error of another sort."""
    code = error_code(error)
    for codes, sentences in _SENTENCES.items():
        if code in codes:
            return sentences
    return _SENTENCES[REFUSED] if code and isinstance(error, PermissionError) else None


def _taking_up(filesystem: Any, call: Callable[[], T]) -> T:
    """`call()`; a refusal is raised for the caller to retry, after the next call has been given a new connection."""
    try:
        return call()
    except Exception as error:
        if hasattr(filesystem, "connect") and (refusal(error) or error_code(error) == BARE):
            filesystem.connect(refresh=True)
        raise


def error_code(error: BaseException) -> str:
    """The code in the store's answer behind an exception, such as "ExpiredToken"; empty when there is none."""
    for link in causes(error):
        response = getattr(link, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
    return ""


def causes(error: BaseException) -> Iterator[BaseException]:
    """The exception, what it was raised from, and so on."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__
