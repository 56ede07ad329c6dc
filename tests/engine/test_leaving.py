"""A pod's server before and after it is to end, by real connections; what an image brings of vLLM's cache."""

import http.client
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from pipeline.engine import class_infos
from pipeline.engine.leaving import Leaving
from pipeline.engine.server import free_port


async def _answer(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[http.client.HTTPConnection]:
    """A connection to a server that is to end once `tmp_path / "leaving"` is there."""
    monkeypatch.setenv("HANFORGE_LEAVING", str(tmp_path / "leaving"))
    monkeypatch.setenv("HANFORGE_SERVES", "promotion 2 of demo")
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(Leaving(_answer), port=port, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    server.should_exit = True
    thread.join(10)


def test_kept_connections_close_once_the_pod_is_to_end(served: http.client.HTTPConnection, tmp_path: Path) -> None:
    def ask() -> http.client.HTTPResponse:
        served.request("GET", "/")
        response = served.getresponse()
        assert response.read() == b"ok" and response.headers["x-hanforge-model"] == "promotion 2 of demo"
        return response

    assert not ask().will_close and "x-hanforge-leaving" not in ask().headers
    (tmp_path / "leaving").write_text("open")
    last = ask()
    assert last.will_close and last.headers["x-hanforge-leaving"] == "1"


def test_what_the_image_brings_is_laid_where_vllm_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "image" / "modelinfos").mkdir(parents=True)
    (tmp_path / "image" / "modelinfos" / "a.json").write_text("{}")
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "cache"))
    class_infos.lay_out()  # outside of the image: nothing
    assert not (tmp_path / "cache").exists()
    monkeypatch.setenv(class_infos.VARIABLE, str(tmp_path / "image"))
    for _ in range(2):
        class_infos.lay_out()
    assert (tmp_path / "cache" / "modelinfos" / "a.json").read_text() == "{}"
