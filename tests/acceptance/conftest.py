"""Fixtures of the proofs on a real cluster with the project's own images. Collected only when asked for.

`make test-cluster` runs all; by hand: `make cluster-up`, `make images CPU=1`, `pytest tests/acceptance`. Without a
cluster, an engine or an image every one of them skips and says so in one line.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from k8s.client import Cluster
from pipeline.store.objects import Store
from tests.acceptance.chain import DATA_NODE, TORCH_NODE, Leg, bring_inputs, contents, copy
from tests.acceptance.world import common_values, fresh_namespace, give_images
from tests.cluster.api import Api
from tests.cluster.conftest import api, cluster, object_store  # noqa: F401
from tests.cluster.layout import ROOT
from tests.conftest import use_s3
from tests.servers.s3 import S3Server

HERE = Path(__file__).resolve().parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave this folder out of a run that did not name it."""
    named = ((ROOT / argument.split("::")[0]).resolve() for argument in config.args)
    asked = any(path == HERE or HERE in path.parents for path in named)
    return None if asked or os.environ.get("HANFORGE_ACCEPTANCE") else True


@pytest.fixture
def here(
    cluster: Path, api: Api, object_store: S3Server, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> Iterator[Cluster]:
    """Our client in a fresh namespace, Pod Security "restricted" enforced, with the Secret `s3` of the store in it."""
    monkeypatch.setenv("KUBECONFIG", str(cluster))
    with fresh_namespace(api, object_store.environment()) as found:
        yield found


@pytest.fixture
def bucket(object_store: S3Server, monkeypatch: pytest.MonkeyPatch) -> Store:  # noqa: F811
    """An empty store in a bucket of its own that pods and this process reach alike; `bucket.url` names it."""
    use_s3(monkeypatch, object_store.environment())
    store = Store(f"s3://{object_store.new_bucket()}/store")
    monkeypatch.setenv("HANFORGE_STORE", store.url)
    return store


@pytest.fixture
def values(bucket: Store) -> dict[str, Any]:
    """Values of charts/hanforge that every proof starts from: store, images, tolerations, small sizes."""
    return common_values(bucket.url)


@pytest.fixture
def images() -> Callable[..., None]:
    """`images("h100-0", "data", "train")`: have these images on that node; skips where they are not built."""
    return give_images


@pytest.fixture(scope="session")
def first(
    cluster: Path,  # noqa: F811
    api: Api,  # noqa: F811
    object_store: S3Server,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Leg]:
    """The release "demo", ended: every stage of the demo up to merge2, by Jobs, the teacher's answers among them."""
    give_images(DATA_NODE, "data")
    give_images(TORCH_NODE, "data", "train", "serve")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(cluster))
        use_s3(patch, object_store.environment())
        with fresh_namespace(api, object_store.environment()) as own:
            leg = Leg(own, Store(f"s3://{object_store.new_bucket()}/store"), tmp_path_factory.mktemp("first"))
            bring_inputs(leg.store)
            leg.deploy("demo")
            leg.finish("demo")
            yield leg


@pytest.fixture(scope="session")
def reference(first: Leg) -> dict[str, Any]:
    """What the first chain made: by stage and output one hash over all bytes, and the counts."""
    return contents(first.store, first.ended[0])


@pytest.fixture
def leg(first: Leg, here: Cluster, bucket: Store, tmp_path: Path) -> Leg:
    """A namespace and a store of its own, with the inputs and the first chain's teacher's output, and nothing else."""
    copy(first.store, bucket, "inputs", first.ended[0].directory(first.store, "augment").prefix)
    return Leg(here, bucket, tmp_path)
