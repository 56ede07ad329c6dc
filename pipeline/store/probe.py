"""What can be known to be wrong with a store at the start, each with its own message (exit code 2)."""

import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pipeline.errors import Trouble, UserError
from pipeline.store.objects import Store
from pipeline.store.retry import causes, is_passing, patience, refusal, retried

LOG = logging.getLogger(__name__)


def open_store(url: str) -> Store:
    """Open a store and probe it: credentials, bucket, and whether create-only writes are real.

    Raises UserError when credentials are refused, the bucket is missing or the place cannot be written.
    A store that ignores create-only writes is still used, with one writer per unit: `store.exclusive` is False.
    """
    store = Store(url)
    key = f".probe/{uuid.uuid4().hex}"
    with suppress(FileExistsError):  # the key is unique: it exists because the answer to our own success was lost
        attempt(store, lambda: store._create(store.path(key), b"first"))
    try:
        attempt(store, lambda: store._create(store.path(key), b"second"))
    except FileExistsError:
        pass
    else:
        store.exclusive = False
        LOG.warning(
            "store %s ignores create-only writes: units are divided by --index and --of, so that each has one writer; "
            "never start two processes with one index",
            store.url,
        )
    store.delete(key)
    return store


@contextmanager
def looking(seconds: float) -> Iterator[None]:
    """For somebody who waits at a terminal: no call is retried for longer, and refused credentials are UserError."""
    try:
        with patience(seconds):
            yield
    except Trouble as error:
        if error.__cause__ is not None and refusal(error.__cause__):
            raise UserError(error.what, error.remedy) from error
        raise


def attempt(store: Store, call: Callable[[], Any]) -> Any:
    """Run one raw call; turn a refusal that no retry mends into UserError and let passing trouble be retried."""

    def once() -> Any:
        try:
            return call()
        except FileExistsError:
            raise
        except Exception as error:
            raise _explained(store, error) or error from error

    return retried(f"cannot reach the store {store.url}", once)


def _explained(store: Store, error: Exception) -> UserError | None:
    """The UserError behind a store's exception, or None when trying again may help."""
    text = " ".join(f"{type(link).__name__}: {link}" for link in causes(error))
    if "NoSuchBucket" in text or (isinstance(error, FileNotFoundError) and not store.is_local):
        return UserError(f"the bucket of {store.url} does not exist", "Create it, or correct --store / HANFORGE_STORE")
    if "NoCredentialsError" in text or "Unable to locate credentials" in text:
        return UserError(
            f"no credentials for {store.url}", "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role for the pod"
        )
    if refused := refusal(error):
        return UserError(f"{store.url}: {refused[0]}: {error}", refused[1])
    if "Could not connect to the endpoint" in text or "EndpointConnectionError" in text:
        return UserError(f"nothing answers at the store's endpoint: {error}", "Check AWS_ENDPOINT_URL and the network")
    if "Invalid bucket name" in text or "ParamValidationError" in text:
        return UserError(f"{store.url!r} is not a valid store URL: {error}", "Use s3://bucket/prefix")
    if store.is_local and isinstance(error, OSError):
        return UserError(f"cannot write to {store.url}: {error}", "Choose a folder that exists and can be written")
    return None if is_passing(error) else UserError(f"the store {store.url} fails: {error}", "Run `hanforge doctor`")
