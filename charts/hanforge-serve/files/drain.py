"""preStop: first another pod must answer in this one's place, then everybody must know, then the last answer must end.

Kubernetes takes a pod that ends out of its Service while another is ready; the only one still gets what is asked, and
that is what keeps a single replica without a gap. SIGTERM comes when this returns.
"""

import re
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
RUNNING = re.compile(r"^vllm:num_requests_(?:running|waiting)(?:\{[^}]*\})?\s+(\S+)", re.MULTILINE)
LOOK_SECONDS = 1.0
REFUSALS = 5  # looks in a row: a pod may drop out for a moment


def is_alive(root: str) -> bool:
    """Whether this pod's own server answers: one that never came up, or hangs, is not waited for."""
    try:
        with OPENER.open(f"{root}/health", timeout=10):
            return True
    except OSError:
        return False


def answering(service: str) -> str:
    """Who answers for the Service: "another" that stays, "us", or "nobody": no name, or no pod behind it, not even this
    one, as when the release or its namespace is deleted. "" when that cannot be told."""
    try:
        with OPENER.open(f"{service}/health", timeout=5) as response:
            return "us" if "x-hanforge-leaving" in response.headers else "another"
    except urllib.error.HTTPError:
        return ""
    except OSError as error:
        reason = getattr(error, "reason", error)
        unknown = isinstance(reason, socket.gaierror) and reason.errno == socket.EAI_NONAME
        return "nobody" if unknown or isinstance(reason, ConnectionRefusedError) else ""


def wait_for_another(service: str, longest: float) -> None:
    """Return when another pod answers, when nobody can ask this one any more, or after `longest` seconds."""
    began, refused = time.monotonic(), 0
    while time.monotonic() - began < longest and refused < REFUSALS:
        if (who := answering(service)) == "another":
            return
        refused = refused + 1 if who == "nobody" else 0
        time.sleep(LOOK_SECONDS)


def in_flight(root: str) -> float:
    """How many requests vLLM runs or holds in its queue; 0 when it is not there any more."""
    try:
        with OPENER.open(f"{root}/metrics", timeout=5) as response:
            return sum(float(count) for count in RUNNING.findall(response.read().decode()))
    except OSError:
        return 0


def main(root: str, service: str, leaving: Path, takeover: float, settle: float, longest: float) -> None:
    """Return when it is replaced and idle, or `longest` seconds are over.

    `takeover` is how long it waits for another pod, `settle` how long for everybody to know of that one. The file
    `leaving` has the server close kept connections; once it says "closed", ready.py says that nobody shall come.
    """
    if not is_alive(root):
        return
    began = time.monotonic()
    leaving.write_text("open")
    wait_for_another(service, takeover)
    time.sleep(settle)
    leaving.write_text("closed")
    idle = 0
    while time.monotonic() - began < longest and idle < 2:
        time.sleep(LOOK_SECONDS)
        idle = idle + 1 if in_flight(root) == 0 else 0


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), *map(float, sys.argv[4:]))
