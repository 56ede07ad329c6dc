"""Follows a kind of object: list, then watch, and again from a list when the server forgot where we were (410).

Nothing between two lists is lost: what is gone from the second one is told as deleted, with its last known state.
"""

import logging
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from k8s.client import Cluster, Gone, Object, Passing, Resource
from pipeline.errors import HanforgeError

LOG = logging.getLogger(__name__)
PAUSE_SECONDS = 1.0


@dataclass(frozen=True)
class Change:
    """An object as it is now, or `deleted` as it was last. A change without an object: the list has been told whole."""

    resource: Resource
    object: Object | None
    deleted: bool = False


def follow(cluster: Cluster, resource: Resource, selector: str = "", fields: str = "") -> Iterator[Change]:
    """Every object now, an empty change, then each change as it comes, for ever. Raises UserError and Trouble."""
    known: dict[str, Object] = {}
    while True:
        listed = cluster.list(resource, selector, fields)
        present = {item["metadata"]["uid"]: item for item in listed["items"]}
        yield from (Change(resource, known[uid], True) for uid in known.keys() - present.keys())
        yield from (Change(resource, item) for item in present.values())
        yield Change(resource, None)
        known = present
        try:
            yield from _changes(cluster, resource, listed["metadata"]["resourceVersion"], selector, fields, known)
        except Gone:
            LOG.info("the server forgot the place in %s: listing again", resource)


def _changes(
    cluster: Cluster, resource: Resource, version: str, selector: str, fields: str, known: dict[str, Object]
) -> Iterator[Change]:
    """What happens after `version`; watches that end or break off go on where they were, until Gone."""
    while True:
        try:
            for told in cluster.watch(resource, version, selector, fields):
                item: Object = told["object"]
                version = item["metadata"]["resourceVersion"]
                if told["type"] == "BOOKMARK":
                    continue
                deleted = told["type"] == "DELETED"
                known.pop(item["metadata"]["uid"], None)
                if not deleted:
                    known[item["metadata"]["uid"]] = item
                yield Change(resource, item, deleted)
        except Passing as error:
            LOG.debug("watch of %s: %s", resource, error)
            time.sleep(PAUSE_SECONDS)


class Feed:
    """Several kinds of objects followed at once, their changes in one queue."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._queue: queue.Queue[Change | HanforgeError] = queue.Queue()
        self._unlisted: set[Resource] = set()

    def add(self, resource: Resource, selector: str = "", fields: str = "") -> None:
        """Follow one more kind."""
        self._unlisted.add(resource)
        arguments = (resource, selector, fields)
        threading.Thread(target=self._run, args=arguments, name=f"watch {resource}", daemon=True).start()

    def _run(self, resource: Resource, selector: str, fields: str) -> None:
        try:
            for change in follow(self._cluster, resource, selector, fields):
                self._queue.put(change)
        except HanforgeError as error:
            self._queue.put(error)

    def take(self, seconds: float) -> list[Change]:
        """The changes since the last call; waits for the first of them up to `seconds`. Raises what ended a watch.

        The first call waits until every kind has been listed, and gives all of it.
        """
        out: list[Change] = []
        until = time.monotonic() + seconds
        while True:
            try:
                told = self._queue.get(timeout=self._wait(until, bool(out)))
            except queue.Empty:
                return out
            if isinstance(told, HanforgeError):
                raise told
            if told.object is None:
                self._unlisted.discard(told.resource)
            else:
                out.append(told)

    def _wait(self, until: float, some: bool) -> float | None:
        if self._unlisted:
            return None
        return 0.0 if some else max(until - time.monotonic(), 0.0)
