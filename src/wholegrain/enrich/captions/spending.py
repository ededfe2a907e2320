"""What calls may cost, and how fast they may come: one budget and one pace for all threads."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from wholegrain.errors import UserError

_UNKNOWN_QUESTION = 4096  # tokens that a question may have, image and all, before the first one has been counted
_LARGER = 1.25  # than the largest question so far, the next may be


@dataclass(frozen=True)
class Limit:
    """The most that may be spent: tokens (in and out together), or money with prices per million tokens.

    Example:
        >>> Limit.of("2M"), Limit.of("5usd", (0.5, 1.5)).amount(1_000_000, 1_000_000)
        (Limit(most=2000000.0, unit='tokens', prices=(1000000.0, 1000000.0)), 2.0)
    """

    most: float = float("inf")
    unit: str = "tokens"
    prices: tuple[float, float] = (1e6, 1e6)

    @classmethod
    def of(cls, text: str, prices: tuple[float, float] | None = None) -> Limit:
        """``200k``, ``2M`` or ``2000000`` (tokens), or ``5usd`` (any currency's letters); empty is no limit."""
        if not text.strip():
            return cls(prices=prices, unit="money") if prices else cls()
        found = re.fullmatch(r"([0-9.]+)\s*(k|M|G|)\s*([A-Za-z]{3,}|)", text.strip())
        if not found or found.group(1).count(".") > 1 or found.group(1) == ".":
            raise UserError(f"--budget {text!r} is not understood; write tokens, such as 2M, or money, such as 5usd.")
        most = float(found.group(1)) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[found.group(2)]
        unit = found.group(3) or "tokens"
        if unit == "tokens":
            return cls(most)
        if prices is None:
            raise UserError(
                f"--budget {text} needs --prices IN OUT: what a million tokens cost, in the question and in the answer."
            )
        return cls(most, unit, prices)

    def amount(self, tokens_in: float, tokens_out: float) -> float:
        """What so many tokens cost."""
        return (tokens_in * self.prices[0] + tokens_out * self.prices[1]) / 1e6

    def shown(self, amount: float) -> str:
        """An amount in words."""
        if self.unit == "tokens":
            return f"{amount:,.0f} tokens"
        return f"{amount:,.4g} {self.unit if self.unit != 'money' else ''}".strip()


class Budget:
    """Stops before more is spent than allowed: a call begins only where the most that it can cost is left.

    Args:
        limit: the most, over all calls of the journal.
        tokens_in, tokens_out: spent before.
        largest_in: the largest question before, in tokens.
    """

    def __init__(self, limit: Limit, tokens_in: int = 0, tokens_out: int = 0, largest_in: int = 0) -> None:
        self.limit, self.spent, self._largest = limit, limit.amount(tokens_in, tokens_out), largest_in
        self._held, self._turn = 0.0, threading.Condition()

    def most_in(self) -> int:
        """The most tokens that the next question may have, as far as is known."""
        return int(self._largest * _LARGER) if self._largest else _UNKNOWN_QUESTION

    @contextmanager
    def call(self, most_out: int) -> Iterator[list[int]]:
        """Holds what a call may cost while it is under way; the caller puts the tokens in and out that it did cost into the list, if any.

        Raises:
            UserError: it might cost more than is left.
        """
        with self._turn:
            while True:
                most = self.limit.amount(self.most_in(), most_out)
                if self.spent + self._held + most <= self.limit.most:
                    break
                if not self._held:
                    raise UserError(
                        f"The budget of {self.limit.shown(self.limit.most)} does not allow another call: {self.limit.shown(self.spent)} are "
                        f"spent, and one may cost {self.limit.shown(most)}; all answers are kept, and the same command goes on with a larger "
                        f"--budget."
                    )
                self._turn.wait()  # what is under way may cost less
            self._held += most
        cost: list[int] = []
        try:
            yield cost
        finally:
            with self._turn:
                self._held = self._held - most if self._held - most > 1e-9 else 0.0
                if cost:
                    self.spent += self.limit.amount(cost[0], cost[1])
                self._turn.notify_all()

    def learn(self, tokens_in: int) -> None:
        """A question had so many tokens."""
        with self._turn:
            self._largest = max(self._largest, tokens_in)


class Pace:
    """Not more calls a minute than allowed, and none while the endpoint asked for a pause.

    Args:
        per_minute: 0 is no limit.
    """

    def __init__(self, per_minute: float = 0) -> None:
        self._gap = 60 / per_minute if per_minute else 0.0
        self._next = self._paused = 0.0
        self._lock = threading.Lock()

    def wait(self, stop: threading.Event) -> None:
        """Returns when the next call may be made, or when it is no longer wanted."""
        with self._lock:
            begin = max(time.monotonic(), self._next)
            self._next = begin + self._gap
        while (left := max(begin, self._paused) - time.monotonic()) > 0 and not stop.is_set():
            stop.wait(left)

    def pause(self, seconds: float) -> None:
        """No call begins for so long."""
        with self._lock:
            self._paused = max(self._paused, time.monotonic() + seconds)
