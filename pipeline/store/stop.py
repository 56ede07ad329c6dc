"""How a process is asked to stop: SIGTERM or SIGINT set a flag; the stage saves its progress and ends as `Stopped`."""

import signal
import threading
from types import FrameType

from pipeline.errors import Stopped


class StopFlag:
    """Set once, by a signal or by a caller; polled by the stage between its steps."""

    def __init__(self) -> None:
        self._event = threading.Event()

    @property
    def requested(self) -> bool:
        """Whether somebody asked this process to stop."""
        return self._event.is_set()

    def request(self) -> None:
        """Ask to stop."""
        self._event.set()

    def wait(self, seconds: float) -> bool:
        """Sleep up to `seconds`, less when asked to stop; True when asked."""
        return self._event.wait(seconds)

    def raise_if_requested(self) -> None:
        """Raise `Stopped` when asked to stop; call it where progress has just been saved."""
        if self.requested:
            raise Stopped()

    def listen(self) -> None:
        """Set the flag on SIGTERM and SIGINT. Only in the main thread."""

        def on_signal(number: int, frame: FrameType | None) -> None:
            self.request()

        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)
