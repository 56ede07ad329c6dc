"""The pods' own scripts, run as the pods run them, against a server that answers as vLLM does."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.charts.rendering import CHARTS

FILES = CHARTS / "hanforge-serve" / "files"
METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="hanforge"} %.1f
vllm:num_requests_waiting{engine="0",model_name="hanforge"} 0.0
vllm:num_requests_waiting_by_reason{reason="capacity"} 9.0
"""


@contextmanager
def server(pages: dict[str, str], headers: dict[str, str] | None = None) -> Iterator[str]:
    """Answers with `pages` and `headers`, which the test may change meanwhile; the key `k` is wanted under /v1."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.path.startswith("/v1") and self.headers.get("Authorization") != "Bearer k"
            self.send_response(401 if wanted else 200 if self.path in pages else 404)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(pages.get(self.path, "").encode())

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


def ready(root: str, key: str = "k", leaving: str = "/nowhere") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-I", str(FILES / "ready.py"), root, "hanforge", leaving]
    return subprocess.run(command, env={"VLLM_API_KEY": key}, capture_output=True, text=True, timeout=30, check=False)


def draining(root: str, service: str, leaving: Path, *seconds: float) -> "subprocess.Popen[bytes]":
    """drain.py with `takeover`, `settle` and `longest`."""
    words = [str(FILES / "drain.py"), root, service, str(leaving), *map(str, seconds)]
    return subprocess.Popen([sys.executable, "-I", *words])


def until_written(leaving: Path, text: str) -> None:
    while not leaving.exists() or leaving.read_text() != text:
        time.sleep(0.05)


def test_ready_means_health_and_the_model(tmp_path: Path) -> None:
    models = '{"data": [{"id": "hanforge"}]}'
    leaving = tmp_path / "leaving"
    with server({"/health": "", "/v1/models": models}) as root:
        assert ready(root).returncode == 0
        leaving.write_text("open")
        assert ready(root, leaving=str(leaving)).returncode == 0  # it may be the only one
        leaving.write_text("closed")
        assert "this pod ends" in ready(root, leaving=str(leaving)).stderr
        assert ready(root, key="other").returncode == 1
    with server({"/health": ""}) as root:
        assert "404" in ready(root).stderr
    with server({"/v1/models": models}) as root:
        assert ready(root).returncode == 1
    with server({"/health": "", "/v1/models": '{"data": [{"id": "another"}]}'}) as root:
        assert "it serves ['another'], not 'hanforge'" in ready(root).stderr
    assert ready("http://127.0.0.1:9").returncode == 1


def test_drain_waits_for_another_pod_then_for_the_last_answer(tmp_path: Path) -> None:
    pages = {"/health": "", "/metrics": METRICS % 2}
    headers, leaving = {"x-hanforge-leaving": "1"}, tmp_path / "leaving"
    with server(pages, headers) as root:
        process = draining(root, root, leaving, 60, 0, 60)
        until_written(leaving, "open")
        time.sleep(1.5)
        assert leaving.read_text() == "open"  # the Service answers by this pod itself
        headers.clear()
        until_written(leaving, "closed")
        time.sleep(1.5)
        assert process.poll() is None  # two requests run
        pages["/metrics"] = METRICS % 0
        assert process.wait(30) == 0


def test_drain_does_not_wait_where_nobody_can_ask_or_answer(tmp_path: Path) -> None:
    pages, leaving = {"/health": "", "/metrics": METRICS % 0}, tmp_path / "leaving"
    with server(pages, {"x-hanforge-leaving": "1"}) as root:
        assert draining(root, "http://no-such-name.invalid:8000", leaving, 60, 0, 60).wait(30) == 0  # no Service left
        assert draining(root, root, leaving, 0, 0, 60).wait(30) == 0  # no room for another pod
    leaving.unlink()
    assert draining("http://127.0.0.1:9", "http://127.0.0.1:9", leaving, 60, 60, 60).wait(30) == 0
    assert not leaving.exists()  # it never served


def test_drain_ends_at_its_time(tmp_path: Path) -> None:
    with server({"/health": "", "/metrics": METRICS % 1}) as root:
        assert draining(root, root, tmp_path / "leaving", 0, 0, 1).wait(30) == 0
