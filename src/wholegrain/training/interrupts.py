"""Ctrl-C and kill: the step in hand is finished and saved, then the run ends as the signal says."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack
from types import FrameType


class Interrupts:
    """While this context is open, the first SIGINT or SIGTERM only sets ``signal``; a second SIGINT ends at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._restore = ExitStack()

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._restore.callback(signal.signal, number, signal.signal(number, self._note))
        return self

    def __exit__(self, *_: object) -> None:
        self._restore.close()

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number

    def end(self) -> None:
        """Ends the program as the signal says: exit code 130 for SIGINT, 143 for SIGTERM."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(128 + self.signal)
