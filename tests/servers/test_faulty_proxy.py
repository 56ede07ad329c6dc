"""The test servers themselves: what they promise to the tests that build on them."""

import http.client
from urllib.parse import urlsplit

import pytest
import s3fs

from tests.servers.faulty_proxy import FaultyProxy, faulty_proxy
from tests.servers.process import server_process
from tests.servers.s3 import S3Server

SIGNED = "AWS4-HMAC-SHA256 Credential={}/20260101/us-east-1/s3/aws4_request"


def ask(
    address: str, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=10)
    connection.request(method, path, body, {"Authorization": SIGNED.format("testing"), **(headers or {})})
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_each_kind_of_fault_reaches_the_client_and_says_truly_whether_it_was_applied(s3: S3Server) -> None:
    bucket = s3.new_bucket()
    with faulty_proxy(s3.endpoint, rate=0.0, seed=1) as proxy:
        proxy.plan("error", "PUT", "/a")
        assert ask(proxy.address, "PUT", f"/{bucket}/a", b"1")[0] == 500
        proxy.plan("slowdown", "PUT", "/b")
        assert ask(proxy.address, "PUT", f"/{bucket}/b", b"1")[0] == 503
        proxy.plan("lost", "PUT", "/c")
        with pytest.raises(ConnectionError):
            ask(proxy.address, "PUT", f"/{bucket}/c", b"1")
        ask(s3.endpoint, "PUT", f"/{bucket}/d", b"x" * 1000)
        proxy.plan("cut", "GET", "/d")
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            ask(proxy.address, "GET", f"/{bucket}/d")
        assert ask(proxy.address, "GET", f"/{bucket}/d") == (200, b"x" * 1000)
    assert [ask(s3.endpoint, "GET", f"/{bucket}/{name}")[0] for name in "abc"] == [404, 404, 200]


def test_the_same_seed_gives_the_same_faults(s3: S3Server) -> None:
    fates = []
    for _ in range(2):
        with faulty_proxy(s3.endpoint, rate=0.3, seed=7, kinds=("error", "slowdown")) as proxy:
            fates.append([ask(proxy.address, "GET", "/")[0] for _ in range(40)])
    assert fates[0] == fates[1] and set(fates[0]) == {200, 500, 503}


def test_the_proxy_runs_as_a_process_of_its_own(s3: S3Server) -> None:
    arguments = ("--upstream", s3.endpoint, "--rate", "1", "--kinds", "slowdown")
    with server_process("tests.servers.faulty_proxy", *arguments) as address:
        assert ask(address, "GET", "/")[0] == 503


def test_a_real_client_gets_through_a_faulty_store(s3: S3Server, faulty_s3: FaultyProxy) -> None:
    bucket = s3.new_bucket()
    store = s3fs.S3FileSystem(skip_instance_cache=True)
    faulty_s3.rate = 0.2
    faulty_s3.kinds = ("error", "slowdown", "delay")
    for number in range(20):
        store.pipe_file(f"{bucket}/{number}", str(number).encode() * 100)
    assert [store.cat_file(f"{bucket}/{number}") for number in range(20)] == [str(n).encode() * 100 for n in range(20)]
    assert faulty_s3.counts["error"] + faulty_s3.counts["slowdown"] > 0


def test_refused_expired_and_readonly_are_answered_as_s3_does(s3: S3Server) -> None:
    bucket, readonly = s3.new_bucket(), s3.new_bucket("readonly-")
    assert ask(s3.endpoint, "GET", f"/{bucket}", headers={"Authorization": SIGNED.format("refused")})[0] == 403
    expired = {"Authorization": SIGNED.format("expired")}
    assert b"ExpiredToken" in ask(s3.endpoint, "GET", f"/{bucket}", headers=expired)[1]
    assert b"AccessDenied" in ask(s3.endpoint, "PUT", f"/{readonly}/x", b"1")[1]


def test_a_conditional_write_is_refused_the_second_time_unless_the_store_ignores_conditions(s3: S3Server) -> None:
    condition = {"If-None-Match": "*"}
    for bucket, second in ((s3.new_bucket(), 412), (s3.new_bucket("unconditional-"), 200)):
        assert ask(s3.endpoint, "PUT", f"/{bucket}/k", b"1", condition)[0] == 200
        assert ask(s3.endpoint, "PUT", f"/{bucket}/k", b"2", condition)[0] == second
