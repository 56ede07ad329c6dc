"""A full disk is the user's to mend: said at once, not retried for minutes."""

import errno

import pytest

from pipeline.errors import UserError
from pipeline.store.retry import retried


def test_a_full_disk_is_not_retried() -> None:
    tries = []

    def write() -> None:
        tries.append(1)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match="cannot write x: no space left on the disk"):
        retried("cannot write x", write)
    assert len(tries) == 1
