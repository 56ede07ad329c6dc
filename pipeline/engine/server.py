"""A real vLLM server: its command line, its environment, and its life as a child process.

The same `command` and `environment` serve `hanforge engine`, the child of a stage and the pods. A child lives in its
own process group, dies with its parent, logs to a file, and is ready when /health and /v1/models say so.
"""

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from pipeline.engine import class_infos
from pipeline.engine.loadable import Backend, backend, check_loadable
from pipeline.engine.protocol import Endpoint
from pipeline.engine.settings import EngineSettings
from pipeline.engine.special import special_beside_tags
from pipeline.errors import Stopped, Trouble, UserError

LOG = logging.getLogger(__name__)

LOG_TAIL_LINES = 15
STOP_GRACE_SECONDS = 10.0
# What vLLM says when its settings do not fit the machine, and what to change (vllm/v1/core/kv_cache_utils.py, torch)
MENDABLE = {
    "larger than the available KV cache memory": "Lower max_model_len, or raise gpu_memory_utilization (kv_cache_gib)",
    "No available memory for the cache blocks": "Raise gpu_memory_utilization, or take a card with more memory",
    "less than desired GPU memory utilization": "Lower gpu_memory_utilization, or free the card of other processes",
    "out of memory": "Lower max_model_len and max_num_seqs, raise tensor_parallel_size, or take a larger card",
    "unrecognized arguments": "Correct engine.extra_args",
    "invalid choice": "Correct the engine's settings",
}
PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None)
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy to ourselves


def command(
    model: Path | str,
    settings: EngineSettings,
    *,
    served_name: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    where: Backend | None = None,
) -> list[str]:
    """The command line that serves `model` (a checkpoint folder) under `served_name`, for this machine's vLLM build."""
    where = where or backend()
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    words += ["--served-model-name", served_name, "--host", host, "--port", str(port), "--dtype", settings.dtype]
    if settings.max_model_len is not None:
        words += ["--max-model-len", str(settings.max_model_len)]
    if settings.max_num_seqs is not None:
        words += ["--max-num-seqs", str(settings.max_num_seqs)]
    if settings.quantization is not None:
        words += ["--quantization", settings.quantization]
    if settings.kv_cache_dtype != "auto":
        words += ["--kv-cache-dtype", settings.kv_cache_dtype]
    if settings.reasoning_parser is not None:
        words += ["--reasoning-parser", settings.reasoning_parser]
    if settings.trust_remote_code:
        words.append("--trust-remote-code")
    if where == "gpu":
        words += ["--gpu-memory-utilization", str(settings.gpu_memory_utilization)]
        words += ["--tensor-parallel-size", str(settings.tensor_parallel_size)]
    if settings.enforce_eager if settings.enforce_eager is not None else where == "cpu":
        words.append("--enforce-eager")
    return [*words, *settings.extra_args]


def environment(settings: EngineSettings, *, where: Backend | None = None) -> dict[str, str]:
    """The variables that the server needs beside the inherited ones: no Hub, no telemetry, the CPU's cache size."""
    needed = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if (where or backend()) == "cpu":
        needed["VLLM_CPU_KVCACHE_SPACE"] = str(settings.kv_cache_gib)
    return needed


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class RunningServer:
    """A vLLM child that has answered. `url` ends in /v1; `model` is the name under which it serves."""

    url: str
    model: str
    process: subprocess.Popen[bytes]
    log: Path

    def endpoint(self, checkpoint: Path) -> Endpoint:
        """How to ask it; the served checkpoint's tokenizer says which special tokens must be shown."""
        return Endpoint(self.url, self.model, special_tokens=special_beside_tags(checkpoint))

    def check(self) -> None:
        """Raise when it has died, with its last words: UserError for what a setting mends, else Trouble."""
        code = self.process.poll()
        if code is None:
            return
        what = f"the vLLM server ended with {code}: {last_lines(self.log)}"
        text = self.log.read_text("utf-8", "replace") if self.log.exists() else ""
        for words, remedy in MENDABLE.items():
            if words.lower() in text.lower():
                raise UserError(what, remedy)
        raise Trouble(what, f"Its log was {self.log}")


@contextmanager
def serving(
    model: Path,
    settings: EngineSettings,
    *,
    served_name: str,
    log: Path,
    host: str = "127.0.0.1",
    port: int | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Iterator[RunningServer]:
    """Serve `model` for the length of the block; the child and all its own children are gone afterwards.

    UserError when vLLM cannot load the model (found before the start), Trouble when it dies early or is not ready
    within `startup_timeout_seconds`, Stopped when `stop_requested()` turns true while waiting.
    """
    check_loadable(model, settings)
    port = port or free_port()
    words = command(model, settings, served_name=served_name, host=host, port=port)
    log.parent.mkdir(parents=True, exist_ok=True)
    LOG.info("starting vLLM on %s, log in %s", model, log)
    class_infos.lay_out()
    with log.open("wb") as output:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment(settings)},
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
    server = RunningServer(f"http://{host}:{port}/v1", served_name, process, log)
    try:
        _wait_ready(server, settings.startup_timeout_seconds, stop_requested)
        yield server
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes], grace_seconds: float = STOP_GRACE_SECONDS) -> None:
    """End a child started in its own session: SIGTERM to its whole group, SIGKILL to what is left after the grace."""
    _signal_group(process.pid, signal.SIGTERM)
    try:
        process.wait(grace_seconds)
    except subprocess.TimeoutExpired:
        LOG.warning("the server did not stop in %s seconds; it is killed", grace_seconds)
    _signal_group(process.pid, signal.SIGKILL)  # vLLM's engine core may outlive its parent
    process.wait()


def last_lines(log: Path, count: int = LOG_TAIL_LINES) -> str:
    """The end of a log in one line: of its last 200 lines those that name an error, else the last ones."""
    try:
        lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines()[-200:] if line.strip()]
    except FileNotFoundError:
        return "no log"
    telling = [line for line in lines if "Error" in line or "error:" in line]
    return " | ".join((telling or lines)[-count:] or ["its log is empty"])


def _wait_ready(server: RunningServer, timeout_seconds: float, stop_requested: Callable[[], bool]) -> None:
    deadline = time.monotonic() + timeout_seconds
    root = server.url.removesuffix("/v1")
    while time.monotonic() < deadline:
        server.check()
        if stop_requested():
            raise Stopped("stopped on request while vLLM was starting")
        if _get(f"{root}/health") is not None and (body := _get(f"{server.url}/models")) is not None:
            names = [entry["id"] for entry in orjson.loads(body)["data"]]
            if server.model not in names:
                raise Trouble(f"the port of the new vLLM server answers for {names}, not {server.model!r}", "Run again")
            return
        time.sleep(0.25)
    raise Trouble(
        f"vLLM was not ready after {timeout_seconds:.0f} s: {last_lines(server.log)}", "Raise startup_timeout_seconds"
    )


def _get(url: str) -> bytes | None:
    try:
        with _DIRECT.open(url, timeout=5) as response:
            return bytes(response.read())
    except (urllib.error.URLError, OSError, ValueError):
        return None


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


def _die_with_parent() -> None:
    """Runs in the child before exec: SIGTERM when the parent dies, whatever killed it (prctl(2))."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
