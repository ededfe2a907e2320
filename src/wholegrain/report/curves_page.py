"""Curves as one HTML file: the picture of the finding, the finding, then every figure over pairs and over seconds, with its table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from wholegrain.report.curves import Curve, Curves, times
from wholegrain.report.curves_text import needed_words
from wholegrain.report.figures import Line, line_chart
from wholegrain.report.page import page_environment, write_page
from wholegrain.report.standings import percent
from wholegrain.report.tables import Column


def write_curves_page(curves: Curves, path: Path, *, left_out: Mapping[str, str] | None = None, data: str = "") -> Path:
    """Writes the page; gives its path."""
    reference = next(curve for curve in curves.curves if curve.name == curves.reference)
    page = page_environment().get_template("curves.html.j2").render(
        curves=curves, left_out=left_out or {}, data=data,
        charts={column: curve_charts(curves, column) for column in curves.columns}, needed_words=needed_words,
        others=[curve for curve in curves.curves if curve is not reference] or [reference], reference_pairs=float(reference.pairs[-1]),
        percent=percent, times=times, points=lambda gap: f"{100 * gap:+.1f}".replace("-", "−"),
    )  # fmt: skip
    return write_page(path, page)


def curve_charts(curves: Curves, column: Column) -> list[str]:
    """A figure over pairs, and over seconds where they are known: a line a method, with its interval as a band, and level lines."""
    start = curves.cell(curves.start.name, curves.budgets[0], column)
    chance = curves.last.chance(column)
    rules = {} if start is None else {curves.start.name: 100 * start.mean.value}
    rules |= {} if chance is None else {"chance": 100 * chance}
    charts = []
    for name, spent in (("pairs seen", _pairs), ("seconds of training", _seconds)):
        lines = [_line(curves, curve, column, spent(curve)) for curve in curves.curves]
        charts.append(line_chart(column.title, lines, x_name=name, y_name="per cent", log_x=True, rules=rules))
    return [chart for chart in charts if chart]


def _pairs(curve: Curve) -> np.ndarray:
    return curve.pairs


def _seconds(curve: Curve) -> np.ndarray:
    seconds_B = curve.seconds.mean(0)
    return np.where(seconds_B > 0, seconds_B, np.nan)


def _line(curves: Curves, curve: Curve, column: Column, spent_B: np.ndarray) -> Line:
    cells = [curves.cell(curve.name, budget, column) for budget in curves.budgets]
    means = [(np.nan,) * 3 if cell is None else (cell.mean.value, cell.mean.low, cell.mean.high) for cell in cells]
    value_B, low_B, high_B = 100 * np.array(means).T
    return Line(curve.name, spent_B, value_B, (low_B, high_B))
