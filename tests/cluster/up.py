"""`make cluster-up`: give this checkout a Kubernetes cluster, and say what was done.

In this order: the kubeconfig that the user has (nothing is created), kind where it is installed, else a cluster of two
nodes built here (root, Linux, Go). Running it again is quick and changes nothing. Exit code 2: this machine cannot.
"""

import argparse
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster import own, theirs
from tests.cluster.errors import Unavailable
from tests.cluster.layout import CACHE, KUBECONFIG, ROOT


def say(text: str) -> None:
    """Print one line of what is going on."""
    print(f"cluster-up: {text}", flush=True)


@contextmanager
def alone() -> Iterator[None]:
    """Hold the lock that `up` and `down` share, for all checkouts of one user."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def up(choice: str) -> str:
    """Bring a cluster up and give one line that describes it. Raises Unavailable."""
    if choice == "own" or (choice == "auto" and own.running()):
        return own.up()
    if choice == "existing" or (choice == "auto" and theirs.usable_kubeconfig()):
        return theirs.adopt()
    if choice == "kind" or (choice == "auto" and theirs.has_kind()):
        return theirs.up_kind()
    return own.up()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--use", choices=["auto", "existing", "kind", "own"], default="auto")
    arguments = parser.parse_args()
    started = time.monotonic()
    try:
        with alone():
            say(up(arguments.use))
    except Unavailable as error:
        print(f"cluster-up: {error}", file=sys.stderr)
        sys.exit(2)
    say(f"{time.monotonic() - started:.0f} s; export KUBECONFIG={os.path.relpath(KUBECONFIG, ROOT)}")


if __name__ == "__main__":
    main()
