"""`make cluster-down`: end the cluster that `make cluster-up` started here, and nothing else. Twice is fine."""

import sys

from tests.cluster import own, theirs
from tests.cluster.errors import Unavailable
from tests.cluster.layout import KUBECONFIG
from tests.cluster.up import alone


def main() -> None:
    """The command."""
    try:
        with alone():
            ended = theirs.down() or own.down()
            if not own.first_processes():
                KUBECONFIG.unlink(missing_ok=True)
    except Unavailable as error:
        print(f"cluster-down: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"cluster-down: {ended}")


if __name__ == "__main__":
    main()
