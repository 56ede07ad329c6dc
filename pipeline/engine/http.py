"""HTTP/1.1 (RFC 9112) to one server over connections that are kept: as little of it as asking a model takes.

A general client costs more than everything else that augment does for an answer (docs/augment.md); this one makes one
write and one read of most requests, and tells the answer by a callback: no task, no stream. TLS and proxies are there,
cookies, redirects and compression are not. Invariant: a connection is used again only after its answer came whole.
"""

import asyncio
import base64
import ssl
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from pipeline.engine.incoming import Incoming

T = TypeVar("T")

LOOPBACK = ("127.0.0.1", "localhost", "::1")
READ_BYTES = 1 << 16  # taken from a socket at a time
CONNECT_SECONDS = 30.0


class BrokenError(Exception):
    """The connection could not be made (`unreachable`), was cut, or what came is not HTTP: passing trouble."""

    def __init__(self, what: str, *, unreachable: bool = False) -> None:
        super().__init__(what)
        self.unreachable = unreachable


@dataclass(frozen=True)
class Response:
    """A complete answer; header names are in lower case, the last of repeated ones wins."""

    status: int
    headers: dict[str, str]
    body: bytes


Outcome = Response | BrokenError | TimeoutError


class Connection(asyncio.BufferedProtocol):
    """One connection: what arrives goes to the call that it serves; whatever arrives unasked ends it."""

    def __init__(self, buffer: memoryview) -> None:
        self.transport: asyncio.Transport
        self.call: Call | None = None
        self._buffer = buffer  # shared by all: it is read as soon as it is filled

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self.transport = transport  # type: ignore[assignment]

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes have come."""
        if self.call is None:
            self.transport.abort()
        else:
            self.call.came(bytes(self._buffer[:nbytes]))

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        if self.call is not None:
            self.call.lost(exc)


class Call:
    """One request under way. `done` is told once how it ended, `heard` whenever a part of the answer has come."""

    def __init__(
        self, origin: "Origin", request: bytes, done: Callable[[Outcome], None], heard: Callable[[], None] | None = None
    ) -> None:
        self.incoming = Incoming()
        self._origin = origin
        self._request = request
        self._done = done
        self._heard = heard
        self._connection: Connection | None = None
        self._kept = False  # the connection has served others
        self._opening: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, timeout_seconds: float | None) -> None:
        """Send the request over a kept connection or a new one; TimeoutError unless it ends in time."""
        if timeout_seconds is not None:
            timer = asyncio.get_running_loop().call_later
            self._timer = timer(timeout_seconds, self._end, TimeoutError(f"no answer in {timeout_seconds} s"))
        connection = self._origin.taken()
        self._kept = connection is not None
        if connection is not None:
            self.send(connection)
        else:
            self._opening = asyncio.ensure_future(self._open())

    def send(self, connection: Connection) -> None:
        """Send the request over this connection."""
        self._connection, connection.call = connection, self
        connection.transport.write(self._request)

    def came(self, data: bytes) -> None:
        """A part of the answer."""
        try:
            self.incoming.feed(data)
        except ValueError as error:
            self._end(BrokenError(f"ValueError: {error}"))
            return
        if self.incoming.whole:
            self._end(self._response())
        elif self._heard is not None:
            self._heard()

    def lost(self, error: Exception | None) -> None:
        """The connection has ended: with the body, too early, or before a kept one brought anything.

        A server may close a kept connection at the moment of its next use: one that ends without a byte is no answer,
        and the request goes once more over a new one (RFC 9112, section 9.3.1).
        """
        self._connection = None
        if self.incoming.end():
            self._end(self._response())
        elif self._kept and not self.incoming.begun:
            self._kept = False
            self._opening = asyncio.ensure_future(self._open())
        else:
            why = f"{type(error).__name__}: {error}" if error else "the server closed the connection"
            self._end(BrokenError(f"{why} before the answer was whole"))

    def cancel(self) -> None:
        """Drop the request; `done` is told nothing any more."""
        self._done = self._heard = _nothing
        self._end(BrokenError("cancelled"))

    def _response(self) -> Response:
        return Response(self.incoming.status, self.incoming.headers, b"".join(self.incoming.pieces))

    def _end(self, outcome: Outcome) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._opening is not None:
            self._opening.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.call = None
            if self.incoming.keeps_connection and self._heard is None:
                self._origin.keep(connection)
            else:
                connection.transport.abort()
        self._done(outcome)

    async def _open(self) -> None:
        try:
            connection = await self._origin.opened()
        except BrokenError as error:
            self._opening = None
            self._end(error)
        else:
            self._opening = None
            self.send(connection)


class Origin:
    """The connections to one server. `url` gives scheme, host and port; `headers` go with every request.

    A host other than this machine is reached through the proxy that HTTP(S)_PROXY names, save those in NO_PROXY.
    """

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self._url = urlsplit(url)
        self._host = self._url.hostname or ""
        self._port = self._url.port or (443 if self._url.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if self._url.scheme == "https" else None
        self._proxy = _proxy(self._url)
        own = {"Host": self._url.netloc.rpartition("@")[2], **headers, **self._proxy_headers()}
        self._head = "".join(f"{name}: {value}\r\n" for name, value in own.items())
        self._prefix = f"http://{own['Host']}" if self._proxy is not None and self._tls is None else ""
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._idle: list[Connection] = []

    def send(
        self, method: str, path: str, body: bytes, timeout_seconds: float | None, done: Callable[[Outcome], None]
    ) -> Call:
        """Begin a request; `done` gets the whole answer, BrokenError, or TimeoutError after so many seconds in all."""
        call = Call(self, self._message(method, path, body), done)
        call.begin(timeout_seconds)
        return call

    async def request(self, method: str, path: str, body: bytes = b"", *, timeout_seconds: float) -> Response:
        """One request and its whole answer. Raises BrokenError or TimeoutError."""
        outcome: Outcome = await outcome_of(partial(self.send, method, path, body, timeout_seconds))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    @asynccontextmanager
    async def stream(self, method: str, path: str, body: bytes) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """Status and pieces of an answer as they come. Raises BrokenError, also while pieces are read.

        Its connection is not kept: the reader may leave before the end.
        """
        listener = _Listener(self, self._message(method, path, body))
        listener.call.begin(None)
        try:
            yield await listener.status(), listener.pieces()
        finally:
            listener.call.cancel()

    def close(self) -> None:
        """Close the connections that are idle; those in use close with their requests."""
        while self._idle:
            self._idle.pop().transport.close()

    def taken(self) -> Connection | None:
        """A kept connection that nobody has closed."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing():
                return connection
        return None

    def keep(self, connection: Connection) -> None:
        """Take back a connection whose answer came whole."""
        self._idle.append(connection)

    async def opened(self) -> Connection:
        """A new connection. BrokenError when it cannot be made."""
        host, port = (self._proxy.hostname or "", self._proxy.port or 80) if self._proxy else (self._host, self._port)
        tls = self._tls if self._proxy is None else None
        loop = asyncio.get_running_loop()
        connection = Connection(self._buffer)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await loop.create_connection(lambda: connection, host, port, ssl=tls)
                if self._proxy and self._tls:
                    await self._tunnel(connection)
                    start = loop.start_tls(connection.transport, connection, self._tls, server_hostname=self._host)
                    connection.transport = await start  # type: ignore[assignment]
        except (OSError, BrokenError, ValueError) as error:
            what = f"no connection to {host}:{port}: {type(error).__name__}: {error}"
            raise BrokenError(what, unreachable=True) from error
        return connection

    async def _tunnel(self, connection: Connection) -> None:
        target = f"{self._host}:{self._port}"
        head = "".join(f"{name}: {value}\r\n" for name, value in {"Host": target, **self._proxy_headers(True)}.items())
        listener = _Listener(self, f"CONNECT {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1"))
        listener.call.send(connection)
        status = await listener.status()
        connection.call = None
        if status != 200:
            connection.transport.abort()
            raise ConnectionError(f"the proxy answered CONNECT {target} with {status}")

    def _message(self, method: str, path: str, body: bytes) -> bytes:
        head = f"{method} {self._prefix}{path} HTTP/1.1\r\n{self._head}Content-Length: {len(body)}\r\n\r\n"
        return head.encode("latin-1") + body

    def _proxy_headers(self, tunnel: bool = False) -> dict[str, str]:
        """The proxy's user and password from its URL; a tunnel's go with CONNECT, never through it."""
        if self._proxy is None or self._proxy.username is None or tunnel != (self._tls is not None):
            return {}
        pair = f"{unquote(self._proxy.username)}:{unquote(self._proxy.password or '')}"
        return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


class _Listener:
    """A call whose answer is read while it comes."""

    def __init__(self, origin: Origin, request: bytes) -> None:
        self._news = asyncio.Event()
        self._ended: list[Outcome] = []
        self.call = Call(origin, request, self._end, self._news.set)

    async def status(self) -> int:
        """Wait for the head. Raises what has ended the call before."""
        while not self.call.incoming.status:
            await self._more()
        return self.call.incoming.status

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body. Raises BrokenError when it ends too early."""
        incoming = self.call.incoming
        while True:
            taken, incoming.pieces = incoming.pieces, []
            for piece in taken:
                yield piece
            if incoming.whole and not incoming.pieces:
                return
            if not incoming.pieces:
                await self._more()

    def _end(self, outcome: Outcome) -> None:
        self._ended.append(outcome)
        self._news.set()

    async def _more(self) -> None:
        if self._ended and isinstance(self._ended[0], Exception):
            raise self._ended[0]
        await self._news.wait()
        self._news.clear()


async def outcome_of(begin: Callable[[Callable[[T], None]], Call]) -> T:
    """Wait for what a callback is told; who is cancelled meanwhile drops the call."""
    waiter: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def done(outcome: T) -> None:
        if not waiter.done():
            waiter.set_result(outcome)

    call = begin(done)
    try:
        return await waiter
    except asyncio.CancelledError:
        call.cancel()
        raise


async def lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The lines of a body that comes in pieces, without their ends."""
    held = b""
    async for piece in pieces:
        *whole, held = (held + piece).split(b"\n")
        for line in whole:
            yield line
    if held:
        yield held


def _proxy(url: SplitResult) -> SplitResult | None:
    if url.hostname in LOOPBACK or urllib.request.proxy_bypass(url.hostname or ""):
        return None
    found = urllib.request.getproxies().get(url.scheme)
    return urlsplit(found if "://" in found else f"http://{found}") if found else None


def _nothing(*_: object) -> None:
    """What is told after a call was dropped."""
