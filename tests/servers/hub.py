"""A small server that speaks the Hub's protocol (HF_ENDPOINT), in its own process, for mirroring without a network.

`python -m tests.servers.hub --root DIR [--port 0]` serves DIR/{models,datasets}/ORG/NAME/BRANCH/FILES. A branch's
commit is a hash of its files. Large files (safetensors, bin, parquet) are LFS: their checksum is a sha256 and `resolve`
redirects to another host name (localhost), as the Hub redirects to its CDN. `ACCESS` beside the branches holds the
tokens that may read a gated repository. `/requests` lists what was asked, and whether a token and a range came along.
"""

import argparse
import functools
import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from urllib.request import urlopen

from tests.servers.process import announce, die_with_parent, server_process

LARGE = (".safetensors", ".bin", ".parquet", ".pth")
API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/(revision|tree)/([^/?]+)")
RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
PAGE = 3  # files on one page of a tree


@dataclass(frozen=True)
class HubServer:
    """A running Hub: its address and the folder it serves."""

    endpoint: str
    root: Path

    def add(self, repository: str, files: dict[str, bytes], kind: str = "models", branch: str = "main") -> Path:
        """Write a repository's files and give its folder; a second call adds to or changes the branch."""
        for name, content in files.items():
            path = self.root / kind / repository / branch / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return self.root / kind / repository

    def requests(self) -> list[dict[str, Any]]:
        """Every request since the start, oldest first."""
        with urlopen(f"{self.endpoint}/requests", timeout=30) as answer:
            return json.load(answer)  # type: ignore[no-any-return]


@contextmanager
def hub_server(root: Path) -> Iterator[HubServer]:
    """Start the server in its own process for the length of a `with` block."""
    with server_process("tests.servers.hub", "--root", str(root)) as address:
        yield HubServer(address, root)


@functools.cache
def _digests(path: Path, size: int, changed: int) -> tuple[str, str]:
    """(git blob id, sha256) of a file as it is now; cached, because every request names a commit."""
    content = path.read_bytes()
    return hashlib.sha1(f"blob {size}\0".encode() + content).hexdigest(), hashlib.sha256(content).hexdigest()


def digests(path: Path) -> tuple[str, str]:
    """(git blob id, sha256) of a file."""
    return _digests(path, path.stat().st_size, path.stat().st_mtime_ns)


def commit_of(branch: Path) -> str:
    """The commit of a branch: it changes with any file."""
    lines = [f"{path.relative_to(branch)} {digests(path)[0]}" for path in files_of(branch)]
    return hashlib.sha1("\n".join(lines).encode()).hexdigest()


def files_of(branch: Path) -> list[Path]:
    """The files of a branch in name order."""
    return sorted(path for path in branch.rglob("*") if path.is_file())


class Handler(BaseHTTPRequestHandler):
    """One request. The class carries the server's state."""

    protocol_version = "HTTP/1.1"
    root: Path
    asked: list[dict[str, Any]] = []
    lock = threading.Lock()

    def log_message(self, *arguments: Any) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        """As GET, without a body."""
        self.do_GET()

    def do_GET(self) -> None:
        """Route by path."""
        url = urlsplit(self.path)
        path = unquote(url.path)
        if path == "/requests":
            return self.answer(200, json.dumps(self.asked).encode())
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        host = self.headers["Host"].split(":")[0]
        record = {"method": self.command, "path": path, "host": host, "token": bool(token)}
        with self.lock:
            self.asked.append({**record, "range": self.headers.get("Range")})
        if match := API.fullmatch(path):
            return self.api(*match.groups(), parse_qs(url.query))
        if path.startswith("/cdn/"):
            return self.content(self.root / path.removeprefix("/cdn/"), {})
        if match := RESOLVE.fullmatch(path):
            return self.resolve("datasets" if match[1] else "models", *match.groups()[1:], token)
        return self.refuse(404, "RepoNotFound", f"no route {path}")

    def branch(self, kind: str, repository: str, revision: str) -> Path | None:
        """The folder of a branch or commit; None after an error answer was sent."""
        folder = self.root / kind / repository
        if not folder.is_dir():
            self.refuse(401, "RepoNotFound", "Repository not found")
            return None
        for branch in sorted(path for path in folder.iterdir() if path.is_dir()):
            if revision in (branch.name, commit_of(branch)):
                return branch
        self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return None

    def api(self, kind: str, repository: str, what: str, revision: str, query: dict[str, list[str]]) -> None:
        """`revision`: the commit and the card; `tree`: one page of files."""
        branch = self.branch(kind, repository, revision)
        if branch is None:
            return None
        if what == "revision":
            card = {"license": "apache-2.0"}
            body = {"_id": "0" * 24, "id": repository, "sha": commit_of(branch), "private": False, "cardData": card}
            return self.answer(200, json.dumps({**body, "siblings": [], "tags": []}).encode())
        start = int(query.get("cursor", ["0"])[0])
        files = files_of(branch)
        page = [self.entry(branch, path) for path in files[start : start + PAGE]]
        headers = {}
        if start + PAGE < len(files):
            following = f"http://{self.headers['Host']}{urlsplit(self.path).path}?recursive=true&cursor={start + PAGE}"
            headers["Link"] = f'<{following}>; rel="next"'
        return self.answer(200, json.dumps(page).encode(), headers)

    def entry(self, branch: Path, path: Path) -> dict[str, Any]:
        """A file as the tree lists it."""
        name, size = path.relative_to(branch).as_posix(), path.stat().st_size
        entry: dict[str, Any] = {"type": "file", "path": name, "size": size, "oid": digests(path)[0]}
        if path.suffix in LARGE:
            entry["lfs"] = {"oid": digests(path)[1], "size": size, "pointerSize": 134}
        return entry

    def resolve(self, kind: str, repository: str, revision: str, name: str, token: str) -> None:
        """A file's bytes, or a redirect to them when it is large."""
        branch = self.branch(kind, repository, revision)
        if branch is None:
            return None
        access = branch.parent / "ACCESS"
        if access.is_file() and token not in access.read_text().split():
            return self.refuse(403 if token else 401, "GatedRepo", "Access to this repository is restricted")
        path = branch / name
        if not path.is_file():
            return self.refuse(404, "EntryNotFound", f"Entry not found: {name}")
        headers = {"X-Repo-Commit": commit_of(branch), "ETag": f'"{digests(path)[0]}"'}
        if path.suffix in LARGE:
            headers["X-Linked-ETag"] = f'"{digests(path)[1]}"'
            headers["X-Linked-Size"] = str(path.stat().st_size)
            port = self.headers["Host"].split(":")[1]  # a proxy's own port when one stands before us
            headers["Location"] = f"http://localhost:{port}/cdn/{path.relative_to(self.root).as_posix()}"
            return self.answer(302, b"", headers)
        return self.content(path, headers)

    def content(self, path: Path, headers: dict[str, str]) -> None:
        """A file's bytes, or the range of them that was asked for."""
        content = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            return self.answer(200, content, {**headers, "Accept-Ranges": "bytes"})
        start, end = int(asked[1]), int(asked[2] or len(content) - 1)
        span = {"Content-Range": f"bytes {start}-{end}/{len(content)}", "Accept-Ranges": "bytes"}
        return self.answer(206, content[start : end + 1], {**headers, **span})

    def refuse(self, status: int, code: str, message: str) -> None:
        """An error as the Hub words it."""
        self.answer(status, json.dumps({"error": message}).encode(), {"X-Error-Code": code, "X-Error-Message": message})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Send one answer."""
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """Says nothing about clients that went away."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients under test are killed and time out: only other errors are worth a traceback."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def main() -> None:
    """Serve until killed, or until the parent's pipe closes with `--with-parent`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--with-parent", action="store_true")
    arguments = parser.parse_args()
    Handler.root = arguments.root
    server = Server(("127.0.0.1", arguments.port), Handler)
    if arguments.with_parent:
        die_with_parent()
    announce(f"http://127.0.0.1:{server.server_port}")
    server.serve_forever()


if __name__ == "__main__":
    main()
