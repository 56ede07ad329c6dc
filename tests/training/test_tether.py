"""Launchers of several nodes hear how the others end."""

import json
import socket
import time
from collections.abc import Callable

import pytest

from pipeline.errors import Trouble
from pipeline.training.tether import End, Tether


@pytest.fixture
def address() -> tuple[str, int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return "127.0.0.1", int(free.getsockname()[1])


def until(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def hello(address: tuple[str, int], run: str = "run/phase1", node: int = 1) -> socket.socket:
    """A node by hand."""
    peer = socket.create_connection(address, timeout=30)
    peer.sendall(json.dumps({"run": run, "node": node}).encode() + b"\n")
    return peer


def test_what_one_node_says_reaches_all_by_way_of_the_first(address: tuple[str, int]) -> None:
    later = [Tether("run/phase1", node, address) for node in (1, 2)]  # before the first one is there
    assert not later[0].joined(0.1)
    first = Tether("run/phase1", 0, address)
    assert first.joined(0.0) and all(each.joined(30.0) for each in later)
    until(lambda: len(first._peers) == 2)
    end = End(2, "phase1: the loss is nan")
    later[0].say(end)
    until(lambda: first.ended == end)
    first.say(end)
    until(lambda: later[1].ended == end)


def test_a_node_that_ends_well_is_no_end_and_one_that_vanishes_is(address: tuple[str, int]) -> None:
    first = Tether("run/phase1", 0, address)
    well, gone = hello(address, node=1), hello(address, node=2)
    assert well.recv(1) == gone.recv(1) == b"\n"
    well.sendall(b'{"code": 0, "words": "done"}\n')
    well.close()
    gone.close()
    until(lambda: first.ended is not None)
    assert first.ended == End(Trouble.exit_code, "node 2 of this training is gone")


def test_strangers_and_late_comers_are_not_listened_to(address: tuple[str, int]) -> None:
    first = Tether("run/phase1", 0, address)
    with socket.create_connection(address) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert stranger.recv(1) == b""
    with hello(address, run="other/phase1") as other:
        assert other.recv(1) == b""
    assert first.ended is None
    first.say(End(1, "process 0 was killed by SIGKILL"))
    with hello(address) as late:
        assert late.recv(1) == b""
    with pytest.raises(Trouble, match="for the other nodes cannot be opened"):
        Tether("run/phase1", 0, address)
