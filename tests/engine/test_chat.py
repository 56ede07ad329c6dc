"""Chat against a real endpoint: the automatic questions, and a person at a real (pseudo) terminal."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from pipeline.engine.chat import QUESTIONS
from tests.servers.openai_endpoint import OpenAIServer, openai_server
from tests.servers.process import ROOT

BACKSPACE, ENTER, CTRL_C, CTRL_D = "\x7f", "\r", "\x03", "\x04"


@pytest.fixture(scope="module")
def _server() -> Iterator[OpenAIServer]:
    with openai_server() as server:
        yield server


@pytest.fixture
def server(_server: OpenAIServer) -> OpenAIServer:
    _server.control(latency_seconds=0.0, style="tags", down=False, key=None)
    return _server


def words(server: OpenAIServer, *options: str) -> list[str]:
    return [sys.executable, "-m", "jobs", "chat", "teacher", "--endpoint", server.url, *options]


class Terminal:
    """A chat process whose standard streams are a pseudo terminal."""

    def __init__(self, command: list[str]) -> None:
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.environ["TERM"] = "xterm-256color"
            os.environ["PROMPT_TOOLKIT_NO_CPR"] = "1"
            os.execv(command[0], command)
        self.seen = ""

    def send(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def expect(self, text: str, seconds: float = 30) -> None:
        """Read until `text` has been printed since the last expectation."""
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            if not select.select([self.descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"{text!r} did not come; seen: {self.seen[-500:]!r}")
            self.seen += os.read(self.descriptor, 65536).decode("utf-8", "replace")
        self.seen = self.seen.split(text, 1)[1]

    def ended(self) -> int:
        """Wait for the end and give the exit code."""
        while True:
            try:
                if not os.read(self.descriptor, 65536):
                    break
            except OSError:  # the terminal closes with its last process
                break
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_the_automatic_questions_are_asked_and_remarked_on(server: OpenAIServer) -> None:
    done = subprocess.run(words(server, "--thinking"), cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    for question in QUESTIONS:
        assert f"[질문] {question}" in done.stdout
    assert done.stdout.count("[생각]\n1단계: ") == done.stdout.count("[답변]\n정답: ") == 3
    assert done.stdout.count("(중국어 없음 / 생각 있음, 2단계 / ") == 3
    assert "<think>" not in done.stdout
    bodies = server.stats()["bodies"][-3:]
    assert all(body["chat_template_kwargs"] == {"enable_thinking": True} for body in bodies)
    assert [len(body["messages"]) for body in bodies] == [1, 1, 1]


def test_korean_with_backspace_commands_and_history_at_a_terminal(server: OpenAIServer) -> None:
    terminal = Terminal(words(server, "--interactive"))
    terminal.expect("나>")
    terminal.send("3 더하기 5는한글" + BACKSPACE * 2 + "?" + ENTER)
    terminal.expect("정답: 8")
    assert server.stats()["bodies"][-1]["messages"] == [{"role": "user", "content": "3 더하기 5는?"}]
    terminal.expect("나>")
    terminal.send("/think" + ENTER)
    terminal.expect("생각 나>")
    terminal.send("10 더하기 1은?" + ENTER)
    terminal.expect("정답: 11")
    body = server.stats()["bodies"][-1]
    assert body["chat_template_kwargs"] == {"enable_thinking": True}
    assert [turn["content"] for turn in body["messages"]] == ["3 더하기 5는?", "정답: 8", "10 더하기 1은?"]
    terminal.expect("생각 나>")
    terminal.send("/no_think" + ENTER)
    terminal.expect("바로 답합니다")
    terminal.expect("나>")
    terminal.send("quit" + ENTER)
    assert terminal.ended() == 0


def test_ctrl_c_breaks_off_an_answer_and_ctrl_d_ends(server: OpenAIServer) -> None:
    server.control(latency_seconds=20)
    terminal = Terminal(words(server, "--interactive"))
    for _ in range(2):
        terminal.expect("나>")
        before = server.stats()["received"]
        terminal.send("느린 질문" + ENTER)
        while server.stats()["received"] == before:
            time.sleep(0.02)
        os.kill(terminal.pid, signal.SIGINT)
        terminal.expect("멈췄습니다")
    terminal.expect("나>")
    terminal.send(CTRL_D)
    assert terminal.ended() == 0


def test_lines_from_a_pipe_are_questions_too(server: OpenAIServer) -> None:
    typed = "2 더하기 2는?\nexit\n4 더하기 4는?\n"
    command = words(server, "--interactive")
    done = subprocess.run(command, cwd=ROOT, input=typed, capture_output=True, text=True, timeout=60, check=True)
    assert "정답: 4" in done.stdout and "정답: 8" not in done.stdout


def test_an_endpoint_that_serves_another_model_is_named(server: OpenAIServer) -> None:
    command = [sys.executable, "-m", "jobs", "chat", "other", "--endpoint", server.url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "serves ['teacher'], not 'other'" in done.stderr and "Traceback" not in done.stderr
