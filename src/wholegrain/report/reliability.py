"""Reliability diagrams: in each bin of confidence how often the models are right, against how sure they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wholegrain.evaluation.result import TaskResult
from wholegrain.evaluation.statistics.calibration import Bin, equal_mass, reliability
from wholegrain.evaluation.tasks.calibration import END
from wholegrain.report.entry import Entry
from wholegrain.report.figures import Line, line_chart
from wholegrain.report.words import plain


def reliability_charts(entries: Sequence[Entry]) -> list[str]:
    """An SVG for each task with choices: a line an entry through its bins of equal numbers, with their intervals, and the diagonal."""
    names = dict.fromkeys(result.task for entry in entries for result in entry.results if result.task.endswith(END))
    return [chart for name in names if (chart := _chart(name, entries))]


def _chart(task: str, entries: Sequence[Entry]) -> str:
    lines = [_line(entry.name, result) for entry in entries if (result := entry.result(task)) is not None]
    least = min((float(line.x.min()) for line in lines), default=0.0)
    diagonal = Line("calibrated", np.array([least, 100.0]), np.array([least, 100.0]))
    return line_chart(plain(task.removesuffix(END)), [*lines, diagonal], x_name="confidence, %", y_name="right, %")


def _line(name: str, result: TaskResult) -> Line:
    bins = bins_of(result)
    x, y, low, high = (100 * np.array([getattr(b, what) for b in bins]) for what in ("confidence", "accuracy", "accuracy_low", "accuracy_high"))
    return Line(name, x, y, (low, high))


def bins_of(result: TaskResult) -> list[Bin]:
    """The bins of equal numbers of a ``NAME_calibration``, from its items."""
    sure, right = (np.array(result.items[column].to_pylist(), dtype=np.float64) for column in ("confidence", "accuracy"))
    return reliability(sure, right, equal_mass(sure))
