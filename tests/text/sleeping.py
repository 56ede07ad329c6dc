"""A task for worker processes that leaves its process id behind and sleeps."""

import os
import time
from pathlib import Path


def sleep_seconds(context: str, seconds: float) -> int:
    """Write `<pid>.<context>` into PID_FOLDER, then sleep."""
    (Path(os.environ["PID_FOLDER"]) / f"{os.getpid()}.{context}").touch()
    time.sleep(seconds)
    return os.getpid()
