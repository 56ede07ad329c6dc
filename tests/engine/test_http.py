"""The HTTP client against sockets that say exactly what each test wants, over TLS and through proxies too."""

import asyncio
import datetime
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.http import BrokenError, Origin, Response, lines

SAYS = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
Work = Callable[[int], Awaitable[Any]]


class Script:
    """Answers each request with the next of `answers`; one that ends in b"!" is sent without it, and the line cut."""

    def __init__(self, answers: list[bytes]) -> None:
        self.answers = answers
        self.connections = 0
        self.heads: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self.answers:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                if b"Content-Length: 4" in head:
                    await reader.readexactly(4)
                answer = self.answers.pop(0)
                writer.write(answer.removesuffix(b"!"))
                await writer.drain()
                if answer.endswith(b"!"):
                    break
        except asyncio.IncompleteReadError:
            pass
        writer.close()


def served(script: Script, work: Work, tls: ssl.SSLContext | None = None) -> Any:
    async def main() -> Any:
        server = await asyncio.start_server(script.serve, "127.0.0.1", 0, ssl=tls)
        async with server:
            return await work(server.sockets[0].getsockname()[1])

    return asyncio.run(main())


def got(answers: list[bytes], times: int = 1) -> tuple[list[Response], Script]:
    """What `times` posts, one after the other, were answered."""
    script = Script(answers)

    async def work(port: int) -> list[Response]:
        origin = Origin(f"http://127.0.0.1:{port}/v1", {"X-Key": "k"})
        found = [await origin.request("POST", "/v1/chat", b"body", timeout_seconds=5) for _ in range(times)]
        origin.close()
        return found

    return served(script, work), script


def test_a_request_has_one_head_and_its_body_and_a_connection_is_used_again() -> None:
    found, script = got([SAYS, SAYS.replace(b"hi", b"ho")], times=2)
    assert [one.body for one in found] == [b"hi", b"ho"] and script.connections == 1
    port = script.heads[0].split(b"Host: 127.0.0.1:")[1].split(b"\r\n")[0]
    head = b"POST /v1/chat HTTP/1.1\r\nHost: 127.0.0.1:" + port + b"\r\nX-Key: k\r\nContent-Length: 4\r\n\r\n"
    assert script.heads == [head, head]


def test_a_request_goes_once_more_when_a_kept_connection_ends_without_a_byte() -> None:
    found, script = got([SAYS, b"!", SAYS.replace(b"hi", b"ho")], times=2)
    assert [one.body for one in found] == [b"hi", b"ho"] and script.connections == 2
    assert script.heads[1] == script.heads[2]


def test_a_new_connection_that_ends_without_a_byte_and_a_half_answer_are_failures() -> None:
    for answers in ([b"!"], [SAYS, b"HTTP/1.1 2!"], [SAYS, b"!", b"!"]):
        with pytest.raises(BrokenError, match="before the answer was whole"):
            got(answers, times=2)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1;x=y\r\ni\r\n0\r\nTrailer: t\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length:2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi!",
        b"HTTP/1.1 200 OK\r\n\r\nhi!",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi!",
    ],
)
def test_every_form_of_body_is_read_to_its_end(answer: bytes) -> None:
    found, script = got([answer, SAYS], times=2)
    assert [(one.status, one.body) for one in found] == [(200, b"hi"), (200, b"hi")]
    assert script.connections == (2 if answer.endswith(b"!") else 1)


def test_a_connection_that_the_server_closed_meanwhile_is_not_used_again() -> None:
    script = Script([SAYS + b"!", SAYS])

    async def work(port: int) -> list[bytes]:
        origin = Origin(f"http://127.0.0.1:{port}", {})
        first = await origin.request("GET", "/", timeout_seconds=5)
        await asyncio.sleep(0.05)
        return [first.body, (await origin.request("GET", "/", timeout_seconds=5)).body]

    assert served(script, work) == [b"hi", b"hi"] and script.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"!", b"HTTP/1.1 200 OK\r\nContent-Len!", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi!",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nh!", b"SSH-2.0-OpenSSH\r\n\r\n!",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n!",
    ],
)  # fmt: skip
def test_what_is_cut_or_no_http_is_broken_and_the_next_request_is_well(answer: bytes) -> None:
    with pytest.raises(BrokenError):
        got([answer])

    async def work(port: int) -> bytes:
        origin = Origin(f"http://127.0.0.1:{port}", {})
        with pytest.raises(BrokenError):
            await origin.request("GET", "/", timeout_seconds=5)
        return (await origin.request("GET", "/", timeout_seconds=5)).body

    assert served(Script([answer, SAYS]), work) == b"hi"


def test_silence_is_a_timeout_and_a_closed_port_is_unreachable() -> None:
    async def work(port: int) -> None:
        with pytest.raises(TimeoutError):
            await Origin(f"http://127.0.0.1:{port}", {}).request("GET", "/", timeout_seconds=0.1)
        with pytest.raises(BrokenError) as refused:
            await Origin("http://127.0.0.1:9", {}).request("GET", "/", timeout_seconds=5)
        assert refused.value.unreachable

    served(Script([b"", SAYS]), work)


def test_a_stream_gives_lines_as_they_come_and_may_be_left_early() -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\na\nb\n\r\n3\r\nc\nd\r\n0\r\n\r\n"
    script = Script([answer, answer])

    async def work(port: int) -> list[bytes]:
        origin = Origin(f"http://127.0.0.1:{port}", {})
        async with origin.stream("GET", "/", b"") as (_, pieces):
            assert await anext(lines(pieces)) == b"a"
        async with origin.stream("GET", "/", b"") as (_, pieces):
            return [line async for line in lines(pieces)]

    assert served(script, work) == [b"a", b"b", b"c", b"d"] and script.connections == 2


def test_tls_is_checked_against_the_trusted_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate(tmp_path / "server.pem"))

    async def work(port: int) -> bytes:
        with pytest.raises(BrokenError, match="CERTIFICATE_VERIFY_FAILED"):
            await Origin(f"https://localhost:{port}", {}).request("GET", "/", timeout_seconds=5)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))
        return (await Origin(f"https://localhost:{port}", {}).request("GET", "/", timeout_seconds=5)).body

    assert served(Script([SAYS]), work, tls) == b"hi"


def test_a_proxy_gets_the_whole_url_or_is_asked_for_a_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "direct.test")
    script = Script([SAYS, b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"])

    async def work(port: int) -> bytes:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(name, f"http://user:p%40ss@127.0.0.1:{port}")
        found = await Origin("http://model.test:81/v1", {}).request("GET", "/v1/models", timeout_seconds=5)
        with pytest.raises(BrokenError, match="CONNECT model.test:443 with 403"):
            await Origin("https://model.test/v1", {"Authorization": "secret"}).request("GET", "/", timeout_seconds=5)
        assert Origin("http://direct.test/v1", {})._proxy is None and Origin("http://localhost", {})._proxy is None
        return found.body

    assert served(script, work) == b"hi"
    plain, tunnel = script.heads
    assert plain.startswith(b"GET http://model.test:81/v1/models HTTP/1.1\r\n") and b"Basic dXNlcjpwQHNz" in plain
    assert tunnel.startswith(b"CONNECT model.test:443 HTTP/1.1\r\n") and b"secret" not in tunnel
    assert b"Basic dXNlcjpwQHNz" in tunnel


def certificate(path: Path) -> Path:
    """A self-signed certificate for localhost with its key, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM) + key.private_bytes(serialization.Encoding.PEM, *form)
    )
    return path
