"""The S3 server of the tests, where it differs from moto."""

import socket
from urllib.parse import urlsplit

from pipeline.store.objects import Store
from tests.servers.s3 import S3Server


def test_a_client_that_stops_in_the_middle_of_its_body_holds_nobody_up(s3: S3Server, s3_store_url: str) -> None:
    address = urlsplit(s3.endpoint)
    with socket.create_connection((address.hostname, address.port)) as stopped:
        stopped.sendall(b"PUT /somewhere/half HTTP/1.1\r\nHost: x\r\nIf-None-Match: *\r\nContent-Length: 9\r\n\r\nhalf")
        store = Store(s3_store_url)
        assert store.create("one", b"1") and not store.create("one", b"2")
        assert store.read("one") == b"1"
