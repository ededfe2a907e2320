"""What a run tells while it runs: a live line on a terminal, plain lines elsewhere, ``metrics.jsonl``, TensorBoard, a tracker."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TextIO, TypedDict

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from wholegrain.files import parse_json, read_bytes, write_text
from wholegrain.structure import StructureError
from wholegrain.training.pace import EVERY, clock
from wholegrain.training.step import Outcome
from wholegrain.training.trackers import Tracker

SMOOTH = 0.95  # of all that the live line says of the loss and of the speed
BAR = 12  # columns of the live line's bar


class Meters(Protocol):
    """Where a run reports to."""

    def say(self, sentence: str) -> None: ...
    def device(self, work: float, peak: float, megabytes: Callable[[], float]) -> None: ...
    def step(self, outcome: Outcome, waited: float) -> None: ...
    def evaluation(self, step: int, numbers: Mapping[str, float]) -> None: ...
    def pause(self) -> None: ...
    def close(self) -> None: ...


class Silent:
    """Reports nothing: every process but the first."""

    def say(self, sentence: str) -> None:
        pass

    def device(self, work: float, peak: float, megabytes: Callable[[], float]) -> None:
        pass

    def step(self, outcome: Outcome, waited: float) -> None:
        pass

    def evaluation(self, step: int, numbers: Mapping[str, float]) -> None:
        pass

    def pause(self) -> None:
        pass

    def close(self) -> None:
        pass


class Reporter:
    """Writes ``metrics.jsonl`` and TensorBoard events into a run's folder, and progress to a terminal or log.

    Args:
        folder: the run's.
        start, total: the first step to come, and the number of all steps.
        quiet: files only.
        tracker: an experiment tracker that is told the same, or ``None``.
        stream: where progress goes; by default the standard error stream.

    Lines of ``metrics.jsonl`` from ``start`` on, which an interrupted run left beyond its last checkpoint, are dropped.
    """

    def __init__(
        self,
        folder: Path,
        start: int,
        total: int,
        quiet: bool = False,
        tracker: Tracker | None = None,
        stream: TextIO | None = None,
    ) -> None:
        self.total, self._tracker = total, tracker
        self._work, self._peak, self._megabytes = 0.0, 0.0, lambda: 0.0
        self._lines = _continued(folder / "metrics.jsonl", start)
        self._board = _board(folder / "tensorboard", start)
        self._console = Console(file=stream or sys.stderr, highlight=False, quiet=quiet)
        self._progress = self._bar() if self._console.is_terminal and not quiet else None
        self._task = self._progress.add_task("", total=total, completed=start, phrases="") if self._progress else None
        self._smooth: dict[str, float] = {}
        self._last = time.perf_counter()
        self._last_line = 0.0
        if self._progress:
            self._progress.start()

    def say(self, sentence: str) -> None:
        """One sentence for the user."""
        (self._progress.console if self._progress else self._console).print(sentence, markup=False, soft_wrap=True)

    def device(self, work: float, peak: float, megabytes: Callable[[], float]) -> None:
        """What a step is measured by: its arithmetic (FLOP, of this process), the device's peak (FLOP/s), the memory in use at most."""
        self._work, self._peak, self._megabytes = work, peak, megabytes
        self._last = time.perf_counter()

    def step(self, outcome: Outcome, waited: float) -> None:
        """Records a step; ``waited`` is how many of its seconds were spent waiting for data."""
        now = time.perf_counter()
        seconds, self._last = max(now - self._last, 1e-9), now
        rate = outcome.images / seconds
        numbers = {
            "loss": outcome.loss,
            **{f"loss/{name}": value for name, value in outcome.parts.items()},
            "lr": outcome.lr,
            "grad_norm": outcome.grad_norm,
            "scale": outcome.scale,
            "images_per_s": rate,
            "texts_per_s": outcome.texts / seconds,
            "data_wait": min(1.0, waited / seconds),
            "truncated": outcome.cut / max(1, outcome.texts),
            "peak_share": self._work / seconds / self._peak if self._peak else 0.0,
            "memory_mb": self._megabytes(),
        }
        self._write({"step": outcome.step, **numbers})
        self._scalars(outcome.step, {name if "/" in name else f"train/{name}": value for name, value in numbers.items()})
        for name in ("loss", *(f"loss/{part}" for part in outcome.parts), "images_per_s", "texts_per_s", "data_wait"):
            self._smooth[name] = SMOOTH * self._smooth.get(name, numbers[name]) + (1 - SMOOTH) * numbers[name]
        self._show(outcome, numbers, now)

    def evaluation(self, step: int, numbers: Mapping[str, float]) -> None:
        """Records the numbers of an evaluation after ``step`` steps."""
        self._write({"step": step - 1, "evaluation": dict(numbers)})
        self._scalars(step, {f"evaluation/{name}": value for name, value in numbers.items()})
        self.say(f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in numbers.items()))
        self.pause()

    def pause(self) -> None:
        """What was done since the last step is no part of the next one's time."""
        self._last = time.perf_counter()

    def close(self) -> None:
        """Ends the live line and closes the files."""
        if self._progress:
            self._progress.stop()
        self._lines.close()
        self._board.close()
        if self._tracker is not None:
            self._tracker.close()

    def _write(self, line: Mapping[str, object]) -> None:
        line = {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in line.items()}
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()

    def _scalars(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._board.add_scalar(name, value, step)
        if self._tracker is not None:
            self._tracker.log(numbers, step)

    def _show(self, outcome: Outcome, numbers: Mapping[str, float], now: float) -> None:
        done, phrases = f"{outcome.step + 1}/{self.total}", self._phrases(outcome, numbers)
        if self._progress and self._task is not None:
            room = self._console.width - BAR - len(f"{self.total}/{self.total}") - len("-:--:--") - 3
            self._progress.update(self._task, completed=outcome.step + 1, phrases=fitting(phrases, room))
        elif now - self._last_line > EVERY or outcome.step + 1 == self.total:
            self._last_line = now
            left = (self.total - outcome.step - 1) * outcome.images / max(self._smooth["images_per_s"], 1e-9)
            self.say(f"step {done}  {'  '.join(phrases)}  ETA {clock(left)}")

    def _phrases(self, outcome: Outcome, numbers: Mapping[str, float]) -> list[str]:
        """What the line says, the most important first; the loss, its parts and the speed are smoothed alike."""
        smooth = self._smooth
        parts = [f"{name} {smooth[f'loss/{name}']:.3f}" for name in outcome.parts if "/" not in name]
        phrases = [f"loss {smooth['loss']:.3f}", f"{smooth['images_per_s']:.0f} images/s"]
        phrases += [f"({' '.join(parts)})"] if len(parts) > 1 else []
        phrases += [f"data wait {smooth['data_wait']:.0%}", f"lr {outcome.lr:.2g}", f"grad {outcome.grad_norm:.2f}"]
        phrases += [f"cut {numbers['truncated']:.1%}"] if outcome.cut else []
        phrases += [f"scale {outcome.scale:.1f}", f"{smooth['texts_per_s']:.0f} texts/s"] if outcome.texts else []
        return phrases + ([f"{numbers['peak_share']:.0%} of peak", f"{numbers['memory_mb'] / 1024:.1f} GB"] if self._peak else [])

    def _bar(self) -> Progress:
        phrases = TextColumn("{task.fields[phrases]}", table_column=Column(no_wrap=True, overflow="crop"))
        columns = (BarColumn(bar_width=BAR), MofNCompleteColumn(), TimeRemainingColumn(), phrases)
        return Progress(*columns, console=self._console, transient=False)


def fitting(phrases: Sequence[str], room: int) -> str:
    """The first phrases, as many of them as fit into so many columns, each whole.

    Example:
        >>> fitting(["loss 2.310", "51 images/s", "lr 1e-05"], 24)
        'loss 2.310  51 images/s'
    """
    line = phrases[0]
    for part in phrases[1:]:
        if len(line) + 2 + len(part) > room:
            break
        line += f"  {part}"
    return line


class _Step(TypedDict):
    """A line of ``metrics.jsonl``."""

    step: int


def _continued(path: Path, start: int) -> TextIO:
    """The file, opened behind its last line before step ``start``."""
    kept = []
    if path.exists():
        for line in read_bytes(path, "remove it, and resume", most=2**31).splitlines():
            with suppress(StructureError, UnicodeDecodeError):  # the last line of a killed run may be cut
                if parse_json(line, _Step)["step"] < start:
                    kept.append(line.decode())
    write_text(path, "".join(line + "\n" for line in kept))
    return path.open("a")


def _board(folder: Path, start: int):
    from torch.utils.tensorboard import SummaryWriter  # takes seconds to import

    return SummaryWriter(str(folder), purge_step=start or None)
