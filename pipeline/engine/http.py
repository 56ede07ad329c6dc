"""HTTP/1.1 (RFC 9112) to one server over connections that are kept: as little of it as asking a model takes.

A general client costs more than everything else that augment does for an answer (docs/augment.md); this one sends one
write and reads one head and one body. TLS and proxies are there, cookies, redirects and compression are not.
Invariant: a connection is used again only after its answer was read to the end.
"""

import asyncio
import base64
import ssl
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LINE_LIMIT = 1 << 20  # longest head or line of a stream, in bytes
PIECE = 1 << 16
CONNECT_SECONDS = 30.0
END_OF_HEAD = b"\r\n\r\n"


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


@dataclass
class Connection:
    """One open connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def usable(self) -> bool:
        """Whether nobody has closed it and nothing unasked has arrived."""
        return not self.reader.at_eof() and not self.writer.is_closing()

    async def exchange(self, request: bytes) -> tuple[int, dict[str, str]]:
        """Send a request, read the head of its answer; closed when that fails."""
        try:
            self.writer.write(request)
            await self.writer.drain()
            return await _read_head(self.reader)
        except BaseException:
            self.writer.close()
            raise


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
        self._idle: list[Connection] = []

    async def request(self, method: str, path: str, body: bytes = b"", *, timeout_seconds: float) -> Response:
        """One request and its whole answer. Raises BrokenError, or TimeoutError after `timeout_seconds` in all."""
        async with asyncio.timeout(timeout_seconds), self._answer(method, path, body) as (status, headers, reader):
            length = headers.get("content-length")
            if length is not None and "transfer-encoding" not in headers:
                return Response(status, headers, await reader.readexactly(int(length)))
            return Response(status, headers, b"".join([piece async for piece in _pieces(reader, headers)]))

    @asynccontextmanager
    async def stream(self, method: str, path: str, body: bytes) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """Status and pieces of an answer as they come. Raises BrokenError, also while pieces are read.

        Its connection is not kept: the reader may leave before the end.
        """
        async with self._answer(method, path, body, keep=False) as (status, headers, reader):
            yield status, _pieces(reader, headers)

    def close(self) -> None:
        """Close the connections that are idle; those in use close with their requests."""
        while self._idle:
            self._idle.pop().writer.close()

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, body: bytes, keep: bool = True
    ) -> AsyncIterator[tuple[int, dict[str, str], asyncio.StreamReader]]:
        head = f"{method} {self._prefix}{path} HTTP/1.1\r\n{self._head}Content-Length: {len(body)}\r\n\r\n"
        connection: Connection | None = None
        kept = False
        try:
            connection, status, headers = await self._asked(head.encode("latin-1") + body)
            yield status, headers, connection.reader
            kept = keep and "close" not in headers.get("connection", "").lower() and _has_end(headers)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise BrokenError(f"{type(error).__name__}: {error}") from error
        finally:
            if connection is not None and kept:
                self._idle.append(connection)
            elif connection is not None:
                connection.writer.close()

    async def _asked(self, request: bytes) -> tuple[Connection, int, dict[str, str]]:
        """Send a request and read the head of its answer.

        A server may close a kept connection at the moment of its next use: one that ends without a byte is no answer,
        and the request goes once more over a new one (RFC 9112, section 9.3.1).
        """
        connection = self._taken()
        if connection is not None:
            try:
                return connection, *await connection.exchange(request)
            except ConnectionError:
                pass
            except asyncio.IncompleteReadError as error:
                if error.partial:
                    raise
        connection = await self._opened()
        return connection, *await connection.exchange(request)

    def _taken(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.writer.close()
        return None

    async def _opened(self) -> Connection:
        host, port = (self._proxy.hostname, self._proxy.port or 80) if self._proxy else (self._host, self._port)
        tls = self._tls if self._proxy is None else None
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                reader, writer = await asyncio.open_connection(host, port, limit=LINE_LIMIT, ssl=tls)
                if self._proxy and self._tls:
                    await self._tunnel(reader, writer)
                    await writer.start_tls(self._tls, server_hostname=self._host)
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            what = f"no connection to {host}:{port}: {type(error).__name__}: {error}"
            raise BrokenError(what, unreachable=True) from error
        return Connection(reader, writer)

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = f"{self._host}:{self._port}"
        head = "".join(f"{name}: {value}\r\n" for name, value in {"Host": target, **self._proxy_headers(True)}.items())
        writer.write(f"CONNECT {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1"))
        status, _ = await _read_head(reader)
        if status != 200:
            raise ConnectionError(f"the proxy answered CONNECT {target} with {status}")

    def _proxy_headers(self, tunnel: bool = False) -> dict[str, str]:
        """The proxy's user and password from its URL; a tunnel's go with CONNECT, never through it."""
        if self._proxy is None or self._proxy.username is None or tunnel != (self._tls is not None):
            return {}
        pair = f"{unquote(self._proxy.username)}:{unquote(self._proxy.password or '')}"
        return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


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


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Status and headers; interim answers (1xx) are passed over. ValueError when it is no HTTP."""
    while True:
        first, *rest = (await reader.readuntil(END_OF_HEAD))[:-4].decode("latin-1").split("\r\n")
        version, status = first.split(" ", 2)[:2]
        if not version.startswith("HTTP/1."):
            raise ValueError(f"not an HTTP answer: {first[:80]!r}")
        if status[0] == "1":
            continue
        headers = {"connection": "close"} if version == "HTTP/1.0" else {}
        for line in rest:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return int(status), headers


async def _pieces(reader: asyncio.StreamReader, headers: dict[str, str]) -> AsyncIterator[bytes]:
    """The body in pieces: chunked, of a known length, or up to the connection's end (RFC 9112, section 6.3)."""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            yield (await reader.readexactly(size + 2))[:-2]
        while await reader.readuntil(b"\r\n") != b"\r\n":  # trailers
            pass
        return
    left = int(headers["content-length"]) if "content-length" in headers else None
    while left != 0:
        piece = await reader.read(PIECE if left is None else min(PIECE, left))
        if not piece and left is not None:
            raise asyncio.IncompleteReadError(b"", left)
        if not piece:
            return
        left = None if left is None else left - len(piece)
        yield piece


def _has_end(headers: dict[str, str]) -> bool:
    return "content-length" in headers or "chunked" in headers.get("transfer-encoding", "").lower()
