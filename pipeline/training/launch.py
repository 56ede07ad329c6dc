"""Starts, watches and ends the processes of one node that train together, with the exit codes of a stage's process.

They get the environment that torchrun gives (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT). torchrun itself
is not used: it turns every exit code into 1, and kills its children 30 s after a signal, whatever they have to save.
No process outlives another: who is left alone waits for gradients that never come.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import GateRefused, Stopped, Trouble, UserError
from pipeline.store import events
from pipeline.store.stage import Stage
from pipeline.store.standing import is_done
from pipeline.training.tether import End, Tether

LOG = logging.getLogger(__name__)
MASTER_PORT = 29500
_AFTER_FAILURE_SECONDS = 10.0
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Member:
    """One process of the gang, and the file where it leaves its last words."""

    rank: int
    child: "subprocess.Popen[bytes]"
    words: Path

    @property
    def code(self) -> int | None:
        """Its exit code, 128 + n when signal n ended it; None while it runs."""
        code = self.child.poll()
        return 128 - code if code is not None and code < 0 else code

    @property
    def end(self) -> End | None:
        """How it ended, with what it said or what ended it; None while it runs, and when it ended well."""
        code = self.child.poll()
        if not code:
            return None
        killed = f"process {self.rank} was killed by {signal.Signals(-code).name}" if code < 0 else ""
        words = killed or self.words.read_text("utf-8") or f"process {self.rank} ended with exit code {code}"
        return End(int(self.code or 0), words)


def is_gang(stage: Stage) -> bool:
    """Whether this process is to start others, rather than to train: the lock says several, and it is none of them."""
    return stage.settings.kind == "train" and stage.execution.world_size > 1 and "RANK" not in os.environ


def leads() -> bool:
    """Whether this process speaks for its stage: the first of a gang, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def launch(stage: Stage) -> tuple[int, str]:
    """Run this node's share of the gang until all have ended; gives the stage's exit code and last words.

    Asked to stop, they have HANFORGE_GRACE_SECONDS (110) to save. Other nodes' start when the first node is there.

    `stage.index` is the node's number among `stage.of`; the first node's address is HANFORGE_MASTER_ADDR. Raises
    UserError when the processes do not divide over the nodes, Stopped when asked to stop before they were started.
    """
    if is_done(stage.store, stage.lock, stage.name):
        LOG.info("stage %s was done before", stage.name)
        return 0, "done"
    address = address_of_first(stage)
    tether = Tether(f"{stage.run_id}/{stage.name}", stage.index, (address[0], address[1] + 1)) if stage.of > 1 else None
    while tether is not None and not tether.joined(_POLL_SECONDS):  # else they could meet the last gang's first process
        stage.stop.raise_if_requested()
    members = [_start(stage, rank, address) for rank in ranks(stage)]
    first = _watch(members, stage, tether, float(os.environ.get("HANFORGE_GRACE_SECONDS", "110")))
    code = _exit_code(first, stage)
    if first is None:
        return code, "done"
    unheard = any(member.end == first and member.rank != 0 for member in members)  # the leader speaks for itself
    if unheard and code != Stopped.exit_code:
        events.say(stage.store, stage.run_id, stage.name, "observed", stage.worker, first.code, first.words)
    return code, first.words


def ranks(stage: Stage) -> range:
    """The ranks of this node's processes. Example: 8 processes over 2 nodes, index 1 -> range(4, 8)"""
    each, rest = divmod(stage.execution.world_size, stage.of)
    if rest:
        raise UserError(
            f"stage {stage.name!r} trains in {stage.execution.world_size} processes; {stage.of} nodes cannot share"
            " them evenly",
            "Set --of (the Job's completions) to the profile's `nodes`",
        )
    return range(each * stage.index, each * (stage.index + 1))


def address_of_first(stage: Stage) -> tuple[str, int]:
    """Host and port where the first process waits for the others; UserError when other nodes could not know it."""
    host, port = os.environ.get("HANFORGE_MASTER_ADDR"), os.environ.get("HANFORGE_MASTER_PORT")
    if stage.of > 1:
        if not host:
            raise UserError(
                f"stage {stage.name!r} trains on {stage.of} nodes, and HANFORGE_MASTER_ADDR is not set",
                "Set it to the address of the node with --index 0",
            )
        return host, int(port or MASTER_PORT)
    with socket.create_server(("127.0.0.1", 0)) as free:
        return host or "127.0.0.1", int(port or free.getsockname()[1])


def _start(stage: Stage, rank: int, address: tuple[str, int]) -> Member:
    words = stage.scratch() / f"last-words-{rank}"
    words.touch()
    command = [sys.executable, "-m", "jobs", "stage", stage.name, "--store", stage.store.url, "--run", stage.run_id]
    world_size = stage.execution.world_size
    environment = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank - ranks(stage)[0]),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(len(ranks(stage))),
        "MASTER_ADDR": address[0],
        "MASTER_PORT": str(address[1]),
        "HANFORGE_PARENT": str(os.getpid()),
        "HANFORGE_TERMINATION_LOG": str(words),
    }
    child = subprocess.Popen(
        [*command, "--index", str(rank), "--of", str(world_size)],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, **environment},
    )
    return Member(rank, child, words)


def _watch(members: list[Member], stage: Stage, tether: Tether | None, grace_seconds: float) -> End | None:
    """Wait until all have ended; gives the end that was the first bad one, here or elsewhere.

    A signal to stop is passed on to the processes, a bad end to the other nodes.
    """
    first: End | None = None
    deadline = float("inf")
    asked = False
    while running := [member for member in members if member.code is None]:
        if first is None and (first := _bad_end(members, tether)) is not None:
            LOG.error("%s; the others end too", first.words)
            orderly = first.code == Stopped.exit_code  # then the leader may still be saving
            deadline = min(deadline, time.monotonic() + (grace_seconds if orderly else _AFTER_FAILURE_SECONDS))
        if (first is not None or stage.stop.requested) and not asked:
            asked = True
            deadline = min(deadline, time.monotonic() + grace_seconds)
            for member in running:
                member.child.send_signal(signal.SIGTERM)
        if time.monotonic() > deadline:
            for member in running:
                member.child.kill()
        time.sleep(_POLL_SECONDS)
    first = first or _bad_end(members, None)
    if tether is not None:
        tether.say(first or End(0, "done"))
    return first


def _bad_end(members: list[Member], tether: Tether | None) -> End | None:
    """How a process of this node ended badly, or another node; what is found here is told the others at once."""
    found = next((end for member in members if (end := member.end) is not None), None)
    if tether is None:
        return found
    found = found or tether.ended
    if found is not None:
        tether.say(found)
    return found


def _exit_code(first: End | None, stage: Stage) -> int:
    """The stage's exit code: what the first to end badly said to the user, else that it was stopped, else trouble."""
    if first is None:
        return 0
    if first.code in (UserError.exit_code, GateRefused.exit_code):
        return first.code
    stopped = stage.stop.requested or first.code == Stopped.exit_code
    return Stopped.exit_code if stopped else Trouble.exit_code
