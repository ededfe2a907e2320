"""The main figures of all entries in one chart: dots with their intervals, and chance."""

from __future__ import annotations

from html import escape

import numpy as np

from wholegrain.evaluation.result import Figure
from wholegrain.report.tables import Comparison


def dot_chart(comparison: Comparison, most: int = 8) -> str:
    """The shares of a table as dots: a line for each figure, on it a dot and an interval for each row, and chance as an upright tick.

    Args:
        comparison: columns that are no shares are left out.
        most: figures that are drawn, the first ones.

    Returns:
        "" when no column is a share.
    """
    places = [n for n in range(len(comparison.columns)) if any(c.figure and c.figure.unit == "share" for c in comparison.cells(n))][:most]
    if not places:
        return ""
    names, step = [name for name, _ in comparison.rows], 11 * len(comparison.rows) + 14
    left, right, height = 172, 404, step * len(places) + 26
    parts = []
    for t in (0, 0.25, 0.5, 0.75, 1):
        x = left + t * (right - left)
        parts.append(f'<line class="grid" x1="{x:.0f}" x2="{x:.0f}" y1="4" y2="{height - 20}"/>')
        parts.append(f'<text class="tick" x="{x:.0f}" y="{height - 6}" text-anchor="middle">{100 * t:.0f}%</text>')
    for row, place in enumerate(places):
        top = row * step + 12
        title = comparison.columns[place].title
        parts.append(f'<text class="tick say" x="{left - 10}" y="{top + (step - 14) / 2 + 2:.1f}" text-anchor="end">{escape(title)}</text>')
        for n, cell in enumerate(comparison.cells(place)):
            if cell.figure is not None and cell.figure.unit == "share":
                parts.append(_dot(n, cell.figure, top + 11 * n, (left, right), f"{names[n]}, {title}: {cell.value} ({cell.interval})"))
    said = "; ".join(
        f"{comparison.columns[place].title}: "
        + ", ".join(f"{name} {cell.value}" for name, cell in zip(names, comparison.cells(place), strict=True))
        for place in places
    )
    key = " ".join(f'<span class="key-dot k{n % 7}"></span>{escape(name)}' for n, name in enumerate(names))
    head = f'<svg class="chart dots" viewBox="0 0 {right + 20} {height}" role="img" aria-label="{escape(said, quote=True)}">'
    drawing = f"{head}{''.join(parts)}</svg>"
    return f'<figure class="overview"><figcaption>{key} <span class="soft">upright tick: chance</span></figcaption>{drawing}</figure>'


def _dot(number: int, figure: Figure, y: float, ends: tuple[float, float], said: str) -> str:
    def at(share: float) -> float:
        return ends[0] + min(1.0, max(0.0, share)) * (ends[1] - ends[0])

    span = f'<line class="s{number % 7}" x1="{at(figure.low):.1f}" x2="{at(figure.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
    x = at(figure.chance or 0.0)
    chance = "" if figure.chance is None else f'<line class="chance" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 5:.1f}" y2="{y + 5:.1f}"/>'
    dot = f'<circle class="d{number % 7}" cx="{at(figure.value):.1f}" cy="{y:.1f}" r="4"/>'
    return f"<g><title>{escape(said)}</title>{chance}{span if np.isfinite([figure.low, figure.high]).all() else ''}{dot}</g>"
