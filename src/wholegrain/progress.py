"""What a command is doing, on standard error.

On a terminal: one line that changes, and is gone in the end. Elsewhere (a file, a pipe, ``TERM=dumb``): a plain line for what takes longer
than a second, and one every half a minute.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

Item = TypeVar("Item")
Show = Callable[[str, int, int], None]
"""(what is being done, how many are done, of how many); 0 where nobody knows."""
_QUIET, _EVERY = 1.0, 30.0  # seconds


class Showing:
    """A :data:`Show`. :meth:`clear` makes room for other words on the terminal, and the next call shows again."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._live = self._console.file.isatty() and os.environ.get("TERM") != "dumb"
        self._bar: Progress | None = None
        self._counted = False
        self._what, self._count = "", ""
        self._said = 0.0
        self._soon: threading.Timer | None = None

    def __call__(self, what: str, done: int = 0, total: int = 0) -> None:
        if self._live:
            self._draw(what, done, total)
        else:
            self._count = f": {done:,}{f' of {total:,}' if total else ''}" if done else " …"
            if what != self._what:
                self.clear()
                self._soon = threading.Timer(_QUIET, self._line, [what])
                self._soon.daemon = True
                self._soon.start()
                self._said = time.monotonic()
            elif time.monotonic() - self._said >= _EVERY:
                self._line(what)
        self._what = what

    def clear(self) -> None:
        """Takes the line off the terminal."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None

    def _draw(self, what: str, done: int, total: int) -> None:
        if self._bar is None or what != self._what or bool(total) != self._counted:
            self.clear()
            self._counted = bool(total)
            columns = [SpinnerColumn(), TextColumn("{task.description}", markup=False)]
            columns += [BarColumn(bar_width=20), MofNCompleteColumn()] if total else []
            self._bar = Progress(
                *columns,
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
                redirect_stdout=False,  # else what is printed would go to standard error
                redirect_stderr=False,
            )
            self._bar.add_task(what, total=total or None)
            self._bar.start()
        said = what if total or not done else f"{what}: {done:,}"
        self._bar.update(self._bar.task_ids[0], completed=done, total=total or None, description=said)

    def _line(self, what: str) -> None:
        self._said = time.monotonic()
        print(f"{what}{self._count}", file=self._console.file, flush=True)


@contextmanager
def showing() -> Iterator[Showing]:
    """A :class:`Showing` until the block ends."""
    show = Showing()
    try:
        yield show
    finally:
        show.clear()


def each(items: Iterable[Item], what: str, show: Show, total: int | None = None) -> Iterator[Item]:
    """The items, while it is shown how many of them are done."""
    if total is None:
        items = list(items)
        total = len(items)
    show(what, 0, total)
    for done, item in enumerate(items, 1):
        yield item
        show(what, done, total)


def counted(what: str, total: int, show: Show) -> Callable[[int], None]:
    """A function that is told of so many more done, and shows how many there are."""
    done = 0

    def tick(more: int) -> None:
        nonlocal done
        done += more
        show(what, done, total)

    show(what, 0, total)
    return tick


def nowhere(what: str, done: int = 0, total: int = 0) -> None:
    """A :data:`Show` that shows nothing."""
