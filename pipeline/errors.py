"""What can end a stage, each with the exit code that Kubernetes and the chain act on.

Row trouble is never an exception: a bad row goes to a rejects shard with its reason.
"""

from typing import ClassVar


class HanforgeError(Exception):
    """What happened (`what`, with the value and the place) and what to do (`remedy`)."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, remedy: str = "") -> None:
        self.what = what
        self.remedy = remedy
        ended = what if what.endswith(("?", "!")) else f"{what.rstrip('.')}."
        super().__init__(f"{ended} {remedy}" if remedy else what)


class UserError(HanforgeError):
    """The user must mend something: settings, missing input, refused credentials, memory. Never retried."""

    exit_code: ClassVar[int] = 2


class GateRefused(HanforgeError):
    """A quality gate refused: which threshold, and by how much."""

    exit_code: ClassVar[int] = 3


class Stopped(HanforgeError):
    """Asked to stop by SIGTERM or SIGINT; progress is saved and the next process goes on from it."""

    exit_code: ClassVar[int] = 143

    def __init__(self, what: str = "stopped on request; progress is saved", remedy: str = "") -> None:
        super().__init__(what, remedy)


class Trouble(HanforgeError):
    """Passing trouble (store, endpoint, lost lease) that outlasted its own retries. The whole process is retried."""

    exit_code: ClassVar[int] = 1
