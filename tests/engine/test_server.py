"""vLLM's command line, what it cannot load, and one real server: start, answer, over-length, death."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.client import Client
from pipeline.engine.loadable import architectures, chat_template, check_loadable, unloadable
from pipeline.engine.local import begins_inside, fitted
from pipeline.engine.protocol import Answer, Endpoint, Failure
from pipeline.engine.server import command, environment, serving
from pipeline.engine.settings import ClientSettings, EngineSettings
from pipeline.engine.stream import Delta
from pipeline.errors import Trouble, UserError
from tests.engine.tiny import TEMPLATE, bare_checkpoint, tiny_qwen3
from tests.servers.process import ROOT


def test_the_command_line_says_what_the_settings_say() -> None:
    settings = EngineSettings(max_model_len=512, reasoning_parser="qwen3", extra_args=["--seed", "1"], kv_cache_gib=2)
    words = command("/m", settings, served_name="t", port=9, where="cpu")
    assert words[1:] == [
        "-m", "vllm.entrypoints.openai.api_server", "--model", "/m", "--served-model-name", "t", "--host", "127.0.0.1",
        "--port", "9", "--dtype", "auto", "--max-model-len", "512", "--reasoning-parser", "qwen3", "--enforce-eager",
        "--seed", "1",
    ]  # fmt: skip
    assert environment(settings, where="cpu")["VLLM_CPU_KVCACHE_SPACE"] == "2"
    gpu = command("/m", settings, served_name="t", where="gpu")
    assert "--enforce-eager" not in gpu and gpu[gpu.index("--gpu-memory-utilization") + 1] == "0.9"
    assert "VLLM_CPU_KVCACHE_SPACE" not in environment(settings, where="gpu")
    assert environment(settings, where="gpu")["HF_HUB_OFFLINE"] == "1"


def test_the_registry_is_read_without_importing_vllm() -> None:
    assert {"Qwen3ForCausalLM", "Qwen3VLForConditionalGeneration", "Exaone4ForCausalLM"} <= architectures()
    assert "vllm" not in sys.modules


def test_a_sound_checkpoint_is_loadable(tmp_path: Path) -> None:
    folder = bare_checkpoint(tmp_path)
    assert unloadable(folder, EngineSettings(max_model_len=1024), where="cpu") is None
    assert chat_template(folder) == TEMPLATE


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["Qwen33ForCausalLM"]}, "'Qwen33ForCausalLM' is not in vLLM's registry"),
        ({"architectures": []}, "names no architecture"),
        ({"head_dim": 48}, "attention heads have size 48"),
        ({"head_dim": None, "num_attention_heads": 4}, "attention heads have size 32"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "stored quantised by 'bitsandbytes'"),
        ({"max_position_embeddings": 256}, "max_model_len 512 is over its own 256 positions"),
    ],
)
def test_what_the_configuration_rules_out_is_said_before_any_start(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError) as caught:
        check_loadable(bare_checkpoint(tmp_path, **changes), EngineSettings(max_model_len=512), where="cpu")
    assert words in str(caught.value) and caught.value.remedy


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("config.json", "no readable config.json"),
        ("tokenizer.json", "no tokenizer"),
        ("chat_template.jinja", "no chat template"),
        ("model.safetensors", "no weight files"),
    ],
)
def test_missing_files_are_named(tmp_path: Path, missing: str, words: str) -> None:
    folder = bare_checkpoint(tmp_path)
    (folder / missing).unlink()
    found = unloadable(folder, EngineSettings(), where="gpu")
    assert found is not None and words in found[0]


def test_an_adapter_is_sent_to_merge_first(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    found = unloadable(tmp_path, EngineSettings(), where="gpu")
    assert found is not None and "adapter" in found[0] and "Merge" in found[1]


@pytest.mark.parametrize(
    ("template", "parser", "inside"),
    [
        (TEMPLATE, None, False),
        ("{{ messages[0].content }}{% if enable_thinking %}<think>\n{% endif %}", None, True),
        ("{{ messages[0].content }}{% if enable_thinking %}<think>\n{% endif %}", "qwen3", False),
    ],
)
def test_whether_an_answer_begins_as_reasoning_follows_from_template_and_parser(
    tmp_path: Path, template: str, parser: str | None, inside: bool
) -> None:
    folder = bare_checkpoint(tmp_path)
    (folder / "chat_template.jinja").write_text(template)
    assert begins_inside(folder, EngineSettings(reasoning_parser=parser)) is inside


def test_a_context_is_set_where_none_is_and_float32_stays_on_a_cpu(tmp_path: Path) -> None:
    folder = bare_checkpoint(tmp_path, dtype="float32")
    assert fitted(EngineSettings(), folder) == EngineSettings(max_model_len=1024, dtype="float32")
    assert fitted(EngineSettings(max_model_len=99, dtype="bfloat16"), folder).max_model_len == 99
    assert fitted(EngineSettings(), bare_checkpoint(tmp_path, max_position_embeddings=262144)).max_model_len == 8192


@pytest.mark.vllm
def test_a_real_server_answers_refuses_and_dies_with_its_parent(tmp_path: Path) -> None:
    """One start for everything: 70 s on an idle machine."""
    model = tiny_qwen3(tmp_path / "model")
    settings = EngineSettings(max_model_len=256, dtype="float32", max_num_seqs=8)
    log = tmp_path / "vllm.log"
    body = {"messages": [{"role": "user", "content": "안녕"}], "max_tokens": 8, "temperature": 0.0}

    async def converse(endpoint: Endpoint) -> tuple[Answer | Failure, Answer | Failure, list[Delta], dict[str, float]]:
        async with Client(endpoint, ClientSettings(attempts=2)) as client:
            await client.wait_ready(5)
            answer = await client.chat(body)
            long = await client.chat({**body, "messages": [{"role": "user", "content": "안녕" * 200}]})
            pieces = [piece async for piece in client.stream(body)]
            return answer, long, pieces, await client.metrics()

    with serving(model, settings, served_name="tiny", log=log) as server:
        answer, long, pieces, metrics = asyncio.run(converse(Endpoint(server.url, "tiny")))
        assert isinstance(answer, Answer) and answer.completion_tokens > 0
        assert isinstance(long, Failure) and long.reason == "over_length"
        assert "".join(piece.content for piece in pieces) == answer.content
        assert metrics["vllm:num_requests_running"] == 0.0
        os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()
        with pytest.raises(Trouble, match="the vLLM server ended with -9"):
            server.check()
    assert not _processes(str(model))


PARENT = """
import sys
from pathlib import Path
from pipeline.engine import server
from pipeline.engine.settings import EngineSettings
server.command = lambda *a, **k: [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
with server.serving(Path(sys.argv[1]), EngineSettings(), served_name="x", log=Path(sys.argv[2])):
    pass
"""


def test_a_killed_parent_takes_the_server_with_it(tmp_path: Path) -> None:
    folder, log = bare_checkpoint(tmp_path / "model"), tmp_path / "log"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(folder), str(log)], cwd=ROOT)
    while not (log.exists() and log.read_text() == "up\n"):
        assert parent.poll() is None
        time.sleep(0.05)
    child = int((Path("/proc") / str(parent.pid) / "task" / str(parent.pid) / "children").read_text().split()[0])
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while _alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_early_death_is_reported_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = [sys.executable, "-c", "print('loading'); raise ValueError('no such weight')"]
    monkeypatch.setattr("pipeline.engine.server.command", lambda *_, **__: failing)
    folder = bare_checkpoint(tmp_path / "model")
    with (
        pytest.raises(Trouble, match="ended with 1: ValueError: no such weight"),
        serving(folder, EngineSettings(), served_name="x", log=tmp_path / "log"),
    ):
        raise AssertionError("it never becomes ready")


def test_what_a_setting_mends_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = [sys.executable, "-c", "raise MemoryError('torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB')"]
    monkeypatch.setattr("pipeline.engine.server.command", lambda *_, **__: failing)
    folder = bare_checkpoint(tmp_path / "model")
    with (
        pytest.raises(UserError, match=r"CUDA out of memory.*Lower max_model_len"),
        serving(folder, EngineSettings(), served_name="x", log=tmp_path / "log"),
    ):
        raise AssertionError("it never becomes ready")


def test_a_server_that_never_gets_ready_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeping = [sys.executable, "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr("pipeline.engine.server.command", lambda *_, **__: sleeping)
    folder = bare_checkpoint(tmp_path / "model")
    settings = EngineSettings(startup_timeout_seconds=0.5)
    with (
        pytest.raises(Trouble, match="not ready after"),
        serving(folder, settings, served_name="x", log=tmp_path / "log"),
    ):
        raise AssertionError("it never becomes ready")
    assert not _processes("time.sleep(600)")


def _alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False


def _processes(words: str) -> list[str]:
    found = subprocess.run(["pgrep", "-f", words], capture_output=True, text=True, check=False).stdout.split()
    return [pid for pid in found if _alive(int(pid))]
