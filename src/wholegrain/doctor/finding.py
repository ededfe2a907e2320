"""What a check says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["fine", "look", "stop"]
Number = float | int | str


@dataclass(frozen=True)
class Finding:
    """One sentence about one thing.

    Attributes:
        check: the check's name.
        level: ``fine``, ``look`` (a person should) or ``stop`` (the run would be ruined).
        said: what, and where: file, record, field.
        do: what to do about it; empty if fine.
        numbers: what it was judged by.
    """

    check: str
    level: Level
    said: str
    do: str = ""
    numbers: Mapping[str, Number] = field(default_factory=dict)


def level_of(value: float, look: float, stop: float) -> Level:
    """``stop`` from ``stop`` on, ``look`` from ``look`` on.

    Example:
        >>> [level_of(share, 0.01, 0.5) for share in (0.0, 0.01, 0.7)]
        ['fine', 'look', 'stop']
    """
    return "stop" if value >= stop else "look" if value >= look else "fine"


def examples(texts: Sequence[str], most: int = 2, width: int = 60) -> str:
    """A few of them, quoted and cut."""
    return ", ".join(repr(text if len(text) <= width else text[: width - 1] + "…") for text in texts[:most])
