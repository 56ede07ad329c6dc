"""The pods' own scripts, run as the pods run them, against a server that answers as vLLM does."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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
def server(pages: dict[str, str]) -> Iterator[str]:
    """Answers with `pages`, which the test may change meanwhile; the key `k` is wanted under /v1."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.path.startswith("/v1") and self.headers.get("Authorization") != "Bearer k"
            self.send_response(401 if wanted else 200 if self.path in pages else 404)
            self.end_headers()
            self.wfile.write(pages.get(self.path, "").encode())

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


def ready(root: str, key: str = "k") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-I", str(FILES / "ready.py"), root, "hanforge"]
    return subprocess.run(command, env={"VLLM_API_KEY": key}, capture_output=True, text=True, timeout=30, check=False)


def test_ready_means_health_and_the_model() -> None:
    models = '{"data": [{"id": "hanforge"}]}'
    with server({"/health": "", "/v1/models": models}) as root:
        assert ready(root).returncode == 0
        assert ready(root, key="other").returncode == 1
    with server({"/health": ""}) as root:
        assert "404" in ready(root).stderr
    with server({"/v1/models": models}) as root:
        assert ready(root).returncode == 1
    with server({"/health": "", "/v1/models": '{"data": [{"id": "another"}]}'}) as root:
        assert "it serves ['another'], not 'hanforge'" in ready(root).stderr
    assert ready("http://127.0.0.1:9").returncode == 1


def test_drain_waits_for_the_last_answer() -> None:
    pages = {"/metrics": METRICS % 2}
    with server(pages) as root:
        command = [sys.executable, "-I", str(FILES / "drain.py"), root, "0", "60"]
        process = subprocess.Popen(command)
        time.sleep(1.5)
        assert process.poll() is None  # two requests run
        pages["/metrics"] = METRICS % 0
        assert process.wait(30) == 0


def test_drain_ends_at_its_time_and_without_a_server() -> None:
    with server({"/metrics": METRICS % 1}) as root:
        subprocess.run([sys.executable, "-I", str(FILES / "drain.py"), root, "0", "1"], timeout=30, check=True)
    command = [sys.executable, "-I", str(FILES / "drain.py"), "http://127.0.0.1:9", "0", "60"]
    subprocess.run(command, timeout=30, check=True)
