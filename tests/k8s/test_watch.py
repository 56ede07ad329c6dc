"""Lists and watches against a real API server: every change once, and on from a list when the place is forgotten."""

import time
import uuid
from collections.abc import Iterator

import pytest

from k8s.client import CONFIGMAPS, Cluster, Gone, Object, Resource
from k8s.watch import Feed, follow
from pipeline.store.retry import retried

pytestmark = pytest.mark.cluster
DEFINITIONS = Resource("customresourcedefinitions", "apiextensions.k8s.io", namespaced=False)


def named(name: str, **data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"of": "test"}}, "data": data}


@pytest.fixture
def notes(here: Cluster) -> Iterator[Resource]:
    """A resource that the server has from now on, so that it remembers no place of before: of ConfigMaps a fresh
    server still knows the first."""
    group = f"test-{uuid.uuid4().hex[:8]}.example.com"
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    version = {"name": "v1", "served": True, "storage": True, "schema": schema}
    names = {"plural": "notes", "singular": "note", "kind": "Note"}
    here.create(DEFINITIONS, {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": f"notes.{group}"},
        "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [version]},
    })  # fmt: skip
    resource = Resource("notes", group)
    while not served(here.get(DEFINITIONS, f"notes.{group}") or {}):
        time.sleep(0.1)
    yield resource
    here.delete(DEFINITIONS, f"notes.{group}")


def served(definition: Object) -> bool:
    conditions = definition.get("status", {}).get("conditions") or []
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)


def note(resource: Resource, name: str) -> Object:
    return {**named(name), "apiVersion": f"{resource.group}/v1", "kind": "Note"}


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


def test_a_place_that_the_server_forgot_is_gone(here: Cluster, notes: Resource) -> None:
    with pytest.raises(Gone):
        retried("watching a new resource", lambda: list(here.watch(notes, "1")))


def test_after_410_a_list_tells_what_was_missed(here: Cluster, notes: Resource) -> None:
    class Forgetful(Cluster):
        """Lists as of a place that the server has forgotten, the first time."""

        asked = 0

        def list(self, *arguments: object, **more: object) -> Object:
            found = super().list(*arguments, **more)  # type: ignore[arg-type]
            Forgetful.asked += 1
            if Forgetful.asked == 1:
                found["metadata"]["resourceVersion"] = "1"
                here.delete(notes, "gone")
                here.create(notes, note(notes, "new"))
            return found

    here.create(notes, note(notes, "gone"))
    changes = follow(Forgetful(here._api, here.namespace), notes, "of=test")
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
