"""Fixtures of the cluster's side: a real API server with real nodes where there is one, else those tests skip."""

from pathlib import Path

import pytest

from k8s.client import Cluster
from k8s.connection import connect
from pipeline.store.objects import Store
from tests.cluster.conftest import api, cluster, namespace  # noqa: F401
from tests.k8s.world import World


@pytest.fixture
def here(cluster: Path, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Cluster:  # noqa: F811
    """Our client, in a fresh namespace."""
    monkeypatch.setenv("KUBECONFIG", str(cluster))
    return connect(namespace)


@pytest.fixture
def world(here: Cluster, tmp_path: Path) -> World:
    """A run of a tiny recipe, and a chain of Jobs for it in the namespace."""
    return World(here, Store(f"file://{tmp_path / 'store'}"), tmp_path)
