"""What the launchers of several nodes tell each other: how the first of them ended that did not end well.

PyTorch's collectives see that a peer is gone when its connection is closed, not when its node is cut off, and never see
why it ended. So each node keeps a connection to the first one, which passes on what it hears: all pods of a gang end
within seconds and with one exit code. A connection that breaks, or is silent for half a minute, is an end too.
"""

import json
import logging
import socket
import threading
import time
from dataclasses import asdict, dataclass

from pipeline.errors import Trouble

LOG = logging.getLogger(__name__)
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}  # tcp(7): 30 s
_HELLO_SECONDS, _PAUSE_SECONDS = 10.0, 1.0


@dataclass(frozen=True)
class End:
    """How a node, or one of its processes, ended: exit code (128 + n after signal n) and last words."""

    code: int
    words: str


class Tether:
    """Node `index`'s part: listens on the port of `address` as the first node, else stays connected to it.

    `ended` is how another node ended badly, None as long as none did. Raises Trouble when the port is taken.
    """

    def __init__(self, run: str, index: int, address: tuple[str, int]) -> None:
        self._hello = {"run": run, "node": index}
        self.ended: End | None = None
        self._said = False
        self._joined = threading.Event()
        self._peers: list[socket.socket] = []
        self._lock = threading.Lock()
        if index == 0:
            both = socket.has_dualstack_ipv6()
            try:
                self._server = socket.create_server(
                    ("", address[1]), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both
                )
            except OSError as error:
                raise Trouble(f"port {address[1]} for the other nodes cannot be opened: {error}") from error
            self._joined.set()
        run_by = (self._listen, ()) if index == 0 else (self._join, address)
        threading.Thread(target=run_by[0], args=run_by[1], name="tether", daemon=True).start()

    def joined(self, seconds: float) -> bool:
        """Whether the first node is there, and not one that is about to end; waits for it as long as that."""
        return self._joined.wait(seconds)

    def say(self, end: End) -> None:
        """Tell the others how this node ended, or what it heard of another; once."""
        with self._lock:
            peers, self._said = [] if self._said else self._peers, True
        for peer in peers:
            try:
                peer.sendall(_line(asdict(end)))
            except OSError as error:
                LOG.info("another node does not hear how this one ended: %s", error)

    def _listen(self) -> None:
        while True:
            peer, _ = self._server.accept()
            threading.Thread(target=self._welcome, args=(peer,), name="tether", daemon=True).start()

    def _welcome(self, peer: socket.socket) -> None:
        """One of the gang is followed; whoever says another hello, or comes when this gang ends, is not."""
        try:
            peer.settimeout(_HELLO_SECONDS)
            lines = peer.makefile("rb")
            hello = json.loads(lines.readline(1000))
            welcome = hello["run"] == self._hello["run"] and not self._said and self.ended is None
            if welcome:
                peer.sendall(b"\n")
        except (OSError, ValueError, TypeError, KeyError):
            welcome = False
        if welcome:
            self._follow(peer, int(hello["node"]))
        else:
            peer.close()

    def _join(self, host: str, port: int) -> None:
        """Connect to the first node, which may not be there yet, or still be one that is about to end."""
        while True:
            try:
                peer = socket.create_connection((host, port), timeout=_HELLO_SECONDS)
                peer.sendall(_line(self._hello))
                if peer.recv(1) == b"\n":
                    self._joined.set()
                    break
                peer.close()
            except OSError as error:
                LOG.debug("the first node is not there yet: %s", error)
            time.sleep(_PAUSE_SECONDS)
        self._follow(peer, 0)

    def _follow(self, peer: socket.socket, node: int) -> None:
        """Wait for the node's last words; none, and it is gone."""
        with self._lock:
            self._peers.append(peer)
        try:
            peer.settimeout(None)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in KEEPALIVE.items():
                if hasattr(socket, name):  # not everywhere
                    peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
            end = End(**json.loads(peer.makefile("rb").readline()))
        except (OSError, ValueError) as error:
            LOG.info("node %d: %s", node, error)
            end = End(Trouble.exit_code, f"node {node} of this training is gone")
        if end.code and self.ended is None:
            self.ended = end


def _line(value: dict[str, object]) -> bytes:
    return json.dumps(value).encode() + b"\n"
