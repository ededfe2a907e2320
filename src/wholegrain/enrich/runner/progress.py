"""How an enrichment goes, on the terminal: rate, failures, cost and what is left; a line now and then where there is no terminal."""

from __future__ import annotations

import time
from typing import cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from wholegrain.enrich.runner.stage import CallStage, Stage

_LINE = 30.0  # seconds between lines


class Shown:
    """A :class:`~wholegrain.enrich.runner.run.Watch` that shows a bar for each stage."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._stage: Stage | None = None
        self._records = self._before = self._done = self._rows = self._failed = 0
        self._start = self._said = 0.0

    def prepare(self, stage: Stage) -> None:
        """A stage takes in what it must know of the whole collection."""
        self.console.print(f"{stage.name}: looking at the whole collection", highlight=False)

    def begin(self, stage: Stage, records: int, done: int) -> None:
        """A stage begins; so many of the records are done already."""
        self._stage, self._records, self._before, self._done = stage, records, done, done
        self._rows = self._failed = 0
        self._start = self._said = time.monotonic()
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"), TimeRemainingColumn())
            self._progress = Progress(*columns, console=self.console, speed_estimate_period=600)
            self._task = self._progress.add_task(stage.name, total=records, completed=done, said=self._words())
            self._progress.start()
        elif done:
            self.console.print(f"{stage.name}: {done:,} of {records:,} records are done already", highlight=False)

    def step(self, records: int, rows: int, failed: int) -> None:
        """So many records are done now, with so many rows; so many of them failed."""
        self._done += records
        self._rows += rows
        self._failed += failed
        if self._progress is not None:
            self._progress.update(self._task, completed=self._done, said=self._words())
        elif time.monotonic() - self._said > _LINE:
            self._line()

    def end(self) -> None:
        """The stage has come to its end, or stops."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        elif self._done > self._before:
            self._line()

    def _line(self) -> None:
        assert self._stage is not None
        self._said = time.monotonic()
        left = (self._records - self._done) / max(self._rate(), 1e-9)
        rest = f"; {left / 60:.0f} min left" if left >= 60 else f"; {left:.0f} s left" if left else ""
        self.console.print(f"{self._stage.name}: {self._words()}{rest}", highlight=False, soft_wrap=True)

    def _rate(self) -> float:
        return (self._done - self._before) / max(time.monotonic() - self._start, 1e-3)

    def _words(self) -> str:
        words = [f"{self._done:,} of {self._records:,} records, {self._rows:,} rows, {self._rate():,.1f} records/s"]
        if self._failed:
            words.append(f"{self._failed:,} failed")
        if self._stage is not None and self._stage.place == "calls":
            words.append(cast(CallStage, self._stage).spent())
        return ", ".join(words)
