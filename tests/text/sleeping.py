"""Two worker processes that leave their process ids behind and sleep: python -m tests.text.sleeping FOLDER"""

import os
import sys
import time
from pathlib import Path

from pipeline.store.stop import StopFlag
from pipeline.text.workers import in_processes


def sleep_seconds(folder: Path, seconds: float) -> int:
    """Write `<pid>.pid` into the folder, then sleep."""
    (folder / f"{os.getpid()}.pid").touch()
    time.sleep(seconds)
    return os.getpid()


if __name__ == "__main__":
    from tests.text.sleeping import sleep_seconds as importable

    list(in_processes(importable, Path(sys.argv[1]), [600.0, 600.0], 2, StopFlag()))
