"""Ctrl-C and kill: the step in hand is finished and saved, then the run ends as the signal asked."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Interrupts:
    """While this context is open, the first SIGINT or SIGTERM only sets ``asked``; a second SIGINT ends at once."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = number

    def obey(self) -> None:
        """Ends the program as asked: exit code 130 for SIGINT, 143 for SIGTERM."""
        if self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        if self.asked is not None:
            raise SystemExit(128 + self.asked)
