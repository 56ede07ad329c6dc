"""Lists and watches against a real API server: every change once, and on from a list when the place is forgotten."""

import pytest

from k8s.client import CONFIGMAPS, Cluster, Gone, Object
from k8s.watch import Feed, follow

pytestmark = pytest.mark.cluster


def named(name: str, **data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"of": "test"}}, "data": data}


def test_what_is_there_then_what_happens(here: Cluster) -> None:
    here.create(CONFIGMAPS, named("a"))
    changes = follow(here, CONFIGMAPS, "of=test")
    first = next(changes)
    assert first.object is not None and first.object["metadata"]["name"] == "a"
    assert next(changes).object is None
    here.patch(CONFIGMAPS, "a", {"data": {"x": "1"}})
    here.delete(CONFIGMAPS, "a")
    here.create(CONFIGMAPS, named("b"))
    told = [next(changes) for _ in range(3)]
    assert [(each.object or {})["metadata"]["name"] for each in told] == ["a", "a", "b"]
    assert [each.deleted for each in told] == [False, True, False]


def test_a_place_that_the_server_forgot_is_gone(here: Cluster) -> None:
    with pytest.raises(Gone):
        list(here.watch(CONFIGMAPS, "1"))


def test_after_410_a_list_tells_what_was_missed(here: Cluster) -> None:
    class Forgetful(Cluster):
        """Lists as of a place that the server has forgotten, the first time."""

        asked = 0

        def list(self, *arguments: object, **more: object) -> Object:
            found = super().list(*arguments, **more)  # type: ignore[arg-type]
            Forgetful.asked += 1
            if Forgetful.asked == 1:
                found["metadata"]["resourceVersion"] = "1"
                here.delete(CONFIGMAPS, "gone")
                here.create(CONFIGMAPS, named("new"))
            return found

    here.create(CONFIGMAPS, named("gone"))
    changes = follow(Forgetful(here._api, here.namespace), CONFIGMAPS, "of=test")
    told = [next(changes) for _ in range(4)]
    seen = [(change.object["metadata"]["name"], change.deleted) for change in told if change.object is not None]
    assert seen == [("gone", False), ("gone", True), ("new", False)]


def test_a_feed_begins_with_everything(here: Cluster) -> None:
    for name in ("a", "b"):
        here.create(CONFIGMAPS, named(name))
    feed = Feed(here)
    feed.add(CONFIGMAPS, "of=test")
    assert {(change.object or {})["metadata"]["name"] for change in feed.take(0.1)} == {"a", "b"}
    assert feed.take(0.0) == []
