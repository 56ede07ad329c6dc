"""Fixtures for tests that need a Kubernetes cluster. They are collected only when asked for.

`make cluster-up`, then `HANFORGE_CLUSTER=1 pytest tests/cluster` (or `-m cluster`, or naming a file of this folder).
Without a cluster every one of them skips and says so in one line.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster import nodes
from tests.cluster.api import Api, Refused
from tests.cluster.errors import Unavailable
from tests.cluster.layout import KUBECONFIG, ROOT
from tests.servers.s3 import S3Server, s3_server

HERE = Path(__file__).resolve().parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave this folder out of a run that did not ask for it."""
    named = any(HERE in (path := (ROOT / argument.split("::")[0]).resolve()).parents or path == HERE
                for argument in config.args)  # fmt: skip
    asked = named or os.environ.get("HANFORGE_CLUSTER") or "cluster" in (config.option.markexpr or "")
    return None if asked else True


@pytest.fixture(scope="session")
def cluster() -> Path:
    """The kubeconfig of a cluster that answers; skips where there is none."""
    if not KUBECONFIG.exists():
        pytest.skip("NO CLUSTER: run `make cluster-up` first")
    if not Api(KUBECONFIG).ready():
        pytest.skip(f"NO CLUSTER: the API server of {KUBECONFIG} does not answer; run `make cluster-up`")
    return KUBECONFIG


@pytest.fixture(scope="session")
def api(cluster: Path) -> Api:
    """The cluster's API."""
    return Api(cluster)


@contextmanager
def fresh_namespace(api: Api) -> Iterator[str]:
    """A fresh namespace with Pod Security "restricted" enforced, deleted afterwards."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    try:
        _wait_for_account(api, name)
        yield name
    finally:
        api.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def namespace(api: Api) -> Iterator[str]:
    """A namespace of the test's own."""
    with fresh_namespace(api) as name:
        yield name


def _wait_for_account(api: Api, namespace: str) -> None:
    """Pods are refused until the namespace's default service account is there."""
    while True:
        try:
            api.get(f"/api/v1/namespaces/{namespace}/serviceaccounts/default")
        except Refused as error:
            if error.status != 404:
                raise
        else:
            return


@pytest.fixture(scope="session")
def object_store(cluster: Path) -> Iterator[S3Server]:
    """An S3 API on this machine, bound to the address at which pods and this machine alike reach it."""
    try:
        address = nodes.machine_address()
    except Unavailable as error:
        pytest.skip(f"NO OBJECT STORE FOR PODS: {error}")
    with s3_server(address) as server:
        yield server
