"""A real S3 API over HTTP (moto) in its own process, with what moto lacks for testing a commit protocol.

`python -m tests.servers.s3 [--host 127.0.0.1] [--port 0]`. Added in front of moto:
- conditional writes are atomic: moto checks `If-None-Match: *` and writes in two steps, so a race of 16 threads can
  have two winners there; S3 has exactly one;
- access keys `refused` and `expired` are answered as S3 answers them (403 InvalidAccessKeyId, 400 ExpiredToken);
- access keys `until-N-...` are good for N requests, then answered as an expired token is: 400 (S3), or 403 when the key
  begins with `until403-`;
- access keys with `skewed` are answered as a clock that is off is (403 RequestTimeTooSkewed);
- buckets whose name begins with `unconditional-` ignore conditions, as some S3-compatible stores do;
- buckets whose name begins with `readonly-` refuse writes (403 AccessDenied).
"""

import argparse
import io
import logging
import os
import re
import threading
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.servers.process import announce, die_with_parent, server_process

CREDENTIAL = re.compile(r"Credential=([^/]+)/")
EXPIRED = ("ExpiredToken", "The provided token has expired.")
REFUSALS = {
    "refused": ("403 Forbidden", "InvalidAccessKeyId", "The AWS Access Key Id does not exist in our records."),
    "expired": ("400 Bad Request", *EXPIRED),
    "skewed": (
        "403 Forbidden",
        "RequestTimeTooSkewed",
        "The difference between the request time and ours is too large.",
    ),
}
LIMITED = re.compile(r"until(403)?-(\d+)")


@dataclass(frozen=True)
class S3Server:
    """A running S3 API: its endpoint URL."""

    endpoint: str

    def new_bucket(self, prefix: str = "bucket-") -> str:
        """Create a bucket with a fresh name and give the name. `prefix` chooses a behaviour, see the module."""
        name = f"{prefix}{uuid.uuid4().hex[:12]}"
        request = urllib.request.Request(f"{self.endpoint}/{name}", method="PUT", headers={"x-test-setup": "1"})
        with urllib.request.urlopen(request, timeout=30):
            return name

    def environment(self, endpoint: str | None = None, access_key: str = "testing") -> dict[str, str]:
        """The AWS variables that point any S3 client at this server, or at a proxy in front of it."""
        return {
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextmanager
def s3_server(host: str = "127.0.0.1") -> Iterator[S3Server]:
    """Start the server in its own process, bound to `host`, for the length of a `with` block."""
    with server_process("tests.servers.s3", "--host", host) as address:
        yield S3Server(address)


class Strict:
    """WSGI layer in front of moto: atomic conditional writes, refused keys, buckets with a behaviour."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.conditional = threading.Lock()
        self.uses: Counter[str] = Counter()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        bucket = environ["PATH_INFO"].lstrip("/").split("/")[0]
        key = CREDENTIAL.search(environ.get("HTTP_AUTHORIZATION", ""))
        if key and key[1] in REFUSALS:
            return _refuse(environ, start_response, *REFUSALS[key[1]])
        if key and (limited := LIMITED.match(key[1])):
            self.uses[key[1]] += 1
            if self.uses[key[1]] > int(limited[2]):
                return _refuse(environ, start_response, "403 Forbidden" if limited[1] else "400 Bad Request", *EXPIRED)
        writes = environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE")
        if bucket.startswith("readonly-") and writes and "HTTP_X_TEST_SETUP" not in environ:
            return _refuse(environ, start_response, "403 Forbidden", "AccessDenied", "Access Denied")
        if bucket.startswith("unconditional-"):
            environ.pop("HTTP_IF_NONE_MATCH", None)
        if writes and "HTTP_IF_NONE_MATCH" in environ:
            _receive(environ)  # before the lock: a client may stop, or die, in the middle of its body
            with self.conditional:
                return list(self.inner(environ, start_response))
        return self.inner(environ, start_response)  # type: ignore[no-any-return]


def _receive(environ: dict[str, Any]) -> None:
    """Read a request's body, so that nothing waits for the client any more."""
    length = -1 if environ.get("wsgi.input_terminated") else int(environ.get("CONTENT_LENGTH") or 0)
    environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(length))


def _refuse(environ: dict[str, Any], start_response: Any, status: str, code: str, message: str) -> list[bytes]:
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


def main() -> None:
    """Serve until killed, or until the parent's pipe closes with `--with-parent`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--with-parent", action="store_true")
    arguments = parser.parse_args()
    os.environ.update(AWS_ACCESS_KEY_ID="testing", AWS_SECRET_ACCESS_KEY="testing", AWS_DEFAULT_REGION="us-east-1")
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = Strict(DomainDispatcherApplication(create_backend_app))
    server = make_server(arguments.host, arguments.port, application, threaded=True, request_handler=MotoRequestHandler)
    if arguments.with_parent:
        die_with_parent()
    announce(f"http://{arguments.host}:{server.server_port}")
    server.serve_forever()


if __name__ == "__main__":
    main()
