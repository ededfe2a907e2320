"""How far a long thing is, said in lines: after a second, and then now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST, EVERY = 1.0, 20.0
"""Seconds until the first line, and between lines."""
Say = Callable[[str], None]


class Pace:
    """To be called after each part that is done.

    Args:
        say: is told, such as ``640 of 8,000 images are encoded, about 0:02:10 to go.``
        doing: the verb.
    """

    def __init__(self, say: Say, doing: str = "encoded") -> None:
        self.say, self.doing = say, doing
        self.began = time.monotonic()
        self.next = self.began + FIRST

    def __call__(self, what: str, done: int, total: int) -> None:
        """``done`` of ``total`` are done."""
        now = time.monotonic()
        if now >= self.next and done < total:
            self.next = now + EVERY
            left = (now - self.began) / max(1, done) * (total - done)
            self.say(f"{done:,} of {total:,} {what} are {self.doing}, about {clock(left)} to go.")


def clock(seconds: float) -> str:
    """Hours, minutes and seconds.

    Example:
        >>> clock(3725)
        '1:02:05'
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
