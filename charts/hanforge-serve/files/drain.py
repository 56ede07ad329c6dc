"""preStop: wait until everybody knows that this pod ends, then until no request runs or waits; SIGTERM comes after.

Kubernetes takes the pod out of its Service at the same moment as it starts this, and proxies hear of it a little later.
"""

import re
import sys
import time
import urllib.request

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
RUNNING = re.compile(r"^vllm:num_requests_(?:running|waiting)(?:\{[^}]*\})?\s+(\S+)", re.MULTILINE)
LOOK_SECONDS = 1.0


def in_flight(root: str) -> float:
    """How many requests vLLM runs or holds in its queue; 0 when it is not there any more."""
    try:
        with OPENER.open(f"{root}/metrics", timeout=5) as response:
            return sum(float(count) for count in RUNNING.findall(response.read().decode()))
    except OSError:
        return 0


def main(root: str, settle_seconds: float, longest_seconds: float) -> None:
    """Return when it has been idle for two looks in a row, or after `longest_seconds`."""
    began = time.monotonic()
    time.sleep(settle_seconds)
    idle = 0
    while idle < 2 and time.monotonic() - began < longest_seconds:
        idle = idle + 1 if in_flight(root) == 0 else 0
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))
