"""Readiness: /health answers, /v1/models names what is served, and the pod is not about to end."""

import json
import os
import sys
import urllib.request
from pathlib import Path

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy to ourselves


def get(url: str) -> bytes:
    """The body of an answer with status 200; an OSError for anything else."""
    key = os.environ.get("VLLM_API_KEY")
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
    with OPENER.open(request, timeout=4) as response:
        return bytes(response.read())


def main(root: str, name: str, leaving: Path) -> int:
    """0 when the server at `root` serves `name`, and drain.py has not written into `leaving` that it takes no more."""
    if leaving.exists() and leaving.read_text() == "closed":
        print("not ready: this pod ends", file=sys.stderr)
        return 1
    try:
        get(f"{root}/health")
        served = [model["id"] for model in json.loads(get(f"{root}/v1/models"))["data"]]
    except (OSError, ValueError) as error:
        print(f"not ready: {error}", file=sys.stderr)
        return 1
    if name not in served:
        print(f"not ready: it serves {served}, not {name!r}", file=sys.stderr)
    return int(name not in served)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
