"""What a store means when it refuses us, in words a person can act on; and how credentials are read anew.

Nobody here keeps keys. botocore renews by itself what can be renewed (roles of pods and machines, web identities,
credential processes). A credentials file it reads once: after a refusal the connection is opened anew, so that a stage
that runs takes up a file that was renewed meanwhile. An environment is what it was when its process started.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

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


def refusal(error: BaseException) -> tuple[str, str] | None:
    """What a refusal means and what to do about it; None for an error of another sort."""
    code = error_code(error)
    for codes, sentences in _SENTENCES.items():
        if code in codes:
            return sentences
    return _SENTENCES[REFUSED] if code and isinstance(error, PermissionError) else None


def taking_up(filesystem: Any, call: Callable[[], T]) -> T:
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
