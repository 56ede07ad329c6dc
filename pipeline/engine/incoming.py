"""One HTTP/1.1 answer as it comes in (RFC 9112): head, interim answers, and the three ways in which a body ends."""

from collections.abc import Callable

LINE_LIMIT = 1 << 20  # longest head, or line between chunks, in bytes
END_OF_HEAD, END_OF_LINE = b"\r\n\r\n", b"\r\n"


class Incoming:
    """Feed it what arrives. `status` is 0 until the head is there; `pieces` is the body so far, for the reader to take.

    Header names are in lower case, the last of repeated ones wins. `whole` once nothing more belongs to it.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.pieces: list[bytes] = []
        self.whole = False
        self._held = b""
        self._left: int | None = None  # bytes of the body or of this chunk; None: up to the connection's end
        self._next: Callable[[], bool] = self._head

    @property
    def begun(self) -> bool:
        """Whether any byte has come."""
        return bool(self.status or self._held)

    @property
    def keeps_connection(self) -> bool:
        """Whether the connection serves another request after this whole answer."""
        ends = self._left is None or bool(self._held) or "close" in self.headers.get("connection", "").lower()
        return self.whole and not ends

    def feed(self, data: bytes) -> None:
        """Take what has arrived. ValueError when it is no HTTP."""
        self._held += data
        while self._next():
            pass

    def end(self) -> bool:
        """The connection has ended; whether that makes the answer whole."""
        self.whole = self.whole or (self.status > 0 and self._left is None)
        return self.whole

    def _until(self, mark: bytes) -> bytes | None:
        """What is held up to a mark, both taken; None while the mark has not come."""
        found, sep, rest = self._held.partition(mark)
        if sep:
            self._held = rest
            return found
        if len(found) > LINE_LIMIT:
            raise ValueError(f"more than {LINE_LIMIT} bytes without an end: {found[:80]!r}")
        return None

    def _head(self) -> bool:
        head = self._until(END_OF_HEAD)
        if head is None:
            return False
        first, *rest = head.decode("latin-1").split("\r\n")
        version, status = first.split(" ", 2)[:2]
        if not version.startswith("HTTP/1."):
            raise ValueError(f"not an HTTP answer: {first[:80]!r}")
        if status[0] == "1":
            return True
        headers = {"connection": "close" if version == "HTTP/1.0" else ""}
        for line in rest:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        self.status, self.headers = int(status), headers
        if "chunked" in headers.get("transfer-encoding", "").lower():
            self._left, self._next = 0, self._size
        else:
            self._left = _length(headers["content-length"], 10) if "content-length" in headers else None
            self._next = self._body
        return True

    def _body(self) -> bool:
        self._take()
        self.whole = self._left == 0
        return False

    def _size(self) -> bool:
        line = self._until(END_OF_LINE)
        if line is None:
            return False
        self._left = _length(line.partition(b";")[0].decode("latin-1"), 16)
        self._next = self._chunk if self._left else self._trailer
        return True

    def _chunk(self) -> bool:
        self._take()
        line = None if self._left else self._until(END_OF_LINE)
        if line is None:
            return False
        if line:
            raise ValueError(f"a chunk is longer than it says: {line[:80]!r}")
        self._next = self._size
        return True

    def _trailer(self) -> bool:
        line = self._until(END_OF_LINE)
        self.whole = line == b""
        return bool(line)

    def _take(self) -> None:
        """Move what is held and belongs to the body into its pieces."""
        piece = self._held if self._left is None else self._held[: self._left]
        if piece:
            self.pieces.append(piece)
            self._held = self._held[len(piece) :]
            self._left = None if self._left is None else self._left - len(piece)


def _length(text: str, base: int) -> int:
    """A size in a head or ahead of a chunk. ValueError when it is none."""
    size = int(text, base)
    if size < 0:
        raise ValueError(f"a size under 0: {text!r}")
    return size
