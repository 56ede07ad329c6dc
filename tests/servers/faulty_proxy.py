"""A real HTTP proxy that makes a seeded share of answers fail, in front of the S3 or Hub server.

`python -m tests.servers.faulty_proxy --upstream http://127.0.0.1:9000 --rate 0.05 --seed 1 [--kinds lost,cut]`

| kind     | what the client sees                                  | was the request applied? |
|----------|-------------------------------------------------------|--------------------------|
| error    | 500 InternalError                                     | no                       |
| slowdown | 503 SlowDown                                          | no                       |
| lost     | connection closed without an answer                   | YES                      |
| cut      | connection closed in the middle of the answer         | YES                      |
| delay    | the right answer, up to `most_delay_seconds` late     | yes                      |
| held     | nothing until `release()`: only by plan               | YES, after the release   |

A held request is applied even when its client has given up or died meanwhile: a slow writer that comes back.
`lost` on a conditional PUT is the trap of the 412 for one's own success: the retry finds the first try's object.
The n-th request's fate depends on seed and n alone.
"""

import argparse
import asyncio
import random
import threading
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.servers.process import announce, die_with_parent

KINDS = ("error", "slowdown", "lost", "cut", "delay")
REFUSALS = {"error": (500, "Internal Server Error", "InternalError"), "slowdown": (503, "Slow Down", "SlowDown")}


@dataclass(frozen=True)
class Request:
    """One parsed request: method, path and the raw bytes of head and body."""

    method: str
    path: str
    head: bytes
    body: bytes


@dataclass(frozen=True)
class PlannedFault:
    """A fault for the next request whose method and path match."""

    kind: str
    method: str
    path_part: str


@dataclass
class FaultyProxy:
    """The proxy's state. `rate`, `kinds` may be changed while it runs; `counts` says what happened so far."""

    upstream: str
    rate: float
    seed: int
    kinds: tuple[str, ...] = KINDS
    address: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    arrived: int = 0  # held requests that the server has answered
    most_delay_seconds: float = 0.5
    planned: deque[PlannedFault] = field(default_factory=deque)
    seen: list[tuple[str, str, str]] = field(default_factory=list)
    _released: threading.Event = field(default_factory=threading.Event)

    def plan(self, kind: str, method: str = "", path_part: str = "", times: int = 1) -> None:
        """Let the next `times` requests with this method and part of a path fail in this way, whatever the rate."""
        self.planned.extend([PlannedFault(kind, method, path_part)] * times)

    def release(self) -> None:
        """Let every held request go on to the server."""
        self._released.set()

    def fate(self, request: Request) -> str:
        """What happens to this request: a kind, or "ok"."""
        self.requests += 1
        chance = random.Random(f"{self.seed}:{self.requests}")
        kind = chance.choice(self.kinds) if chance.random() < self.rate else "ok"
        for fault in self.planned:
            if fault.method in ("", request.method) and fault.path_part in request.path:
                self.planned.remove(fault)
                kind = fault.kind
                break
        self.counts[kind] += 1
        self.seen.append((request.method, request.path, kind))
        return kind

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client's requests until it goes or a fault closes its connection."""
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while (request := await read_request(reader, writer)) is not None:
                if not await self.answer(request, writer):
                    break
        writer.close()

    async def answer(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        """Give one answer, or spoil it. False: the connection is to be closed."""
        kind = self.fate(request)
        if kind in REFUSALS:
            writer.write(_refusal(request, *REFUSALS[kind]))
            await writer.drain()
            return True
        while kind == "held" and not self._released.is_set():
            await asyncio.sleep(0.02)
        answer = await self.forward(request)
        self.arrived += kind == "held"
        if kind == "delay":
            await asyncio.sleep(random.Random(self.requests).uniform(0.1, 1.0) * self.most_delay_seconds)
        if kind in ("lost", "cut"):
            writer.write(_cut(answer) if kind == "cut" else b"")
            await writer.drain()
            return False
        writer.write(answer)
        await writer.drain()
        return False  # upstream was asked to close, and its answer said so

    async def forward(self, request: Request) -> bytes:
        """The upstream's whole answer as bytes."""
        target = urlsplit(self.upstream)
        reader, writer = await asyncio.open_connection(target.hostname, target.port)
        writer.write(request.head + request.body)
        await writer.drain()
        answer = await reader.read(-1)
        writer.close()
        head, end, body = answer.partition(b"\r\n\r\n")
        if b"\r\nconnection: close" not in head.lower():
            head += b"\r\nConnection: close"  # or the client would send its next request into a closed connection
        return head + end + body


async def read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    """Parse one HTTP/1.1 request with its body; None when the client has gone. Answers `Expect: 100-continue`."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    lines = head[:-4].split(b"\r\n")
    method, path, _ = lines[0].decode("latin-1").split(" ", 2)
    names = {line.split(b":", 1)[0].strip().lower(): line.split(b":", 1)[1].strip() for line in lines[1:]}
    if names.get(b"expect", b"").lower() == b"100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if names.get(b"transfer-encoding", b"").lower() == b"chunked":
        body = await _read_chunked(reader)
    else:
        body = await reader.readexactly(int(names.get(b"content-length", b"0")))
    dropped = (b"connection", b"expect", b"keep-alive")
    kept = [line for line in lines[1:] if line.split(b":", 1)[0].strip().lower() not in dropped]
    return Request(method, path, b"\r\n".join([lines[0], *kept, b"Connection: close", b"", b""]), body)


async def _read_chunked(reader: asyncio.StreamReader) -> bytes:
    raw = b""
    while True:
        size = await reader.readuntil(b"\r\n")
        raw += size
        length = int(size.split(b";")[0], 16)
        raw += await reader.readexactly(length + 2)
        if length == 0:
            return raw


def _cut(answer: bytes) -> bytes:
    """Half of the body, or of the status line where there is no body."""
    head, end, body = answer.partition(b"\r\n\r\n")
    return head + end + body[: len(body) // 2] if body else head[:8]


def _refusal(request: Request, status: int, reason: str, code: str) -> bytes:
    body = "" if request.method == "HEAD" else f"<Error><Code>{code}</Code><Message>planned</Message></Error>"
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


@contextmanager
def faulty_proxy(upstream: str, rate: float, seed: int, kinds: tuple[str, ...] = KINDS) -> Iterator[FaultyProxy]:
    """Run the proxy on a thread of this process, so that a test can plan faults and read counts."""
    proxy = FaultyProxy(upstream, rate, seed, kinds)
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=2**20))
    proxy.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)
        server.close()
        for task in (open_connections := asyncio.all_tasks(loop)):
            task.cancel()
        if open_connections:
            loop.run_until_complete(asyncio.wait(open_connections, timeout=5))
        loop.close()


async def _serve_forever(proxy: FaultyProxy, port: int) -> None:
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", port, limit=2**20)
    announce(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await server.serve_forever()


def main() -> None:
    """Proxy until killed, or until the parent's pipe closes with `--with-parent`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--most-delay-seconds", type=float, default=0.5)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--with-parent", action="store_true")
    arguments = parser.parse_args()
    if arguments.with_parent:
        die_with_parent()
    proxy = FaultyProxy(arguments.upstream, arguments.rate, arguments.seed, tuple(arguments.kinds.split(",")))
    proxy.most_delay_seconds = arguments.most_delay_seconds
    asyncio.run(_serve_forever(proxy, arguments.port))


if __name__ == "__main__":
    main()
