"""Fixtures of the teacher's tests: one scripted endpoint for a test file, reset for each test, and a local store."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.store.objects import Store
from tests.servers.openai_endpoint import OpenAIServer, openai_server


@pytest.fixture(scope="module")
def _server() -> Iterator[OpenAIServer]:
    with openai_server() as server:
        yield server


@pytest.fixture
def server(_server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> OpenAIServer:
    """A scripted endpoint without latency and faults; HANFORGE_TEACHER_ENDPOINT points at it."""
    _server.control(latency_seconds=0.0, fault_rate=0.0, down=False, style="tags", models=["teacher"], key=None)
    monkeypatch.setenv("HANFORGE_TEACHER_ENDPOINT", _server.url)
    return _server


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store in a fresh local folder."""
    return Store(f"file://{tmp_path / 'store'}")
