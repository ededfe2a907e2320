"""Charts as plain SVG: lines that are told apart by dash and by a name at their end, in the page's own colours.

They are drawn here and not by a plotting library so that they follow the reader's light or dark theme and stay a few kilobytes;
ticks come from matplotlib.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import pairwise

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from wholegrain.evaluation.result import Figure
from wholegrain.report.entry import Entry

WIDTH, HEIGHT = 420, 220
_LEFT, _TOP, _BOTTOM = 46, 10, 30
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4", "4 4", "1 2")
POINTS = 200  # most points of a line; longer ones are averaged in bins


@dataclass(frozen=True)
class Line:
    """A curve with its name; ``x`` and ``y`` are ``[n]``, and so is a band around it: its points are then drawn, too.

    ``ring`` is a place beside the curve's own points that is compared with it.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    band: tuple[np.ndarray, np.ndarray] | None = None
    ring: tuple[float, float] | None = None


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_name: str = "step",
    y_name: str = "",
    log_x: bool = False,
    rules: Mapping[str, float] | None = None,
) -> str:
    """An SVG of the lines. Values that are not finite are left out.

    Args:
        title, x_name, y_name: what is said above, below, and softly beside the title.
        lines: the curves.
        log_x: whether the horizontal axis is logarithmic; then all ``x`` are above 0.
        rules: level lines across the chart, by name: two at most.

    Returns:
        "" when no line has a point.
    """
    lines, rules = [line for line in (_thinned(line) for line in lines) if len(line.x)], rules or {}
    if not lines:
        return ""
    right = 14 + 6.9 * min(26, max(len(line.name) for line in lines))
    box = (_LEFT, WIDTH - right, HEIGHT - _BOTTOM, _TOP)
    rings = [line.ring for line in lines if line.ring]
    y_range = _range([*(line.y for line in lines), *(end for line in lines if line.band for end in line.band), [*rules.values(), *(y for _, y in rings)]])
    y_ticks = MaxNLocator(4).tick_values(*_wide(y_range))
    to_y = _scale((y_ticks[0], y_ticks[-1]), box[2], box[3])
    to_x, x_ticks = (_log_axis if log_x else _step_axis)(_range([*(line.x for line in lines), [x for x, _ in rings]]), box)
    parts = [_y_tick(float(t), float(to_y(t)), box) for t in y_ticks]
    parts += [f'<text class="tick" x="{to_x(t):.1f}" y="{box[2] + 14}" text-anchor="middle">{_said(t)}</text>' for t in x_ticks]
    parts.append(
        f'<text class="tick" x="{(box[0] + box[1]) / 2:.0f}" y="{HEIGHT - 3}" text-anchor="middle">{escape(x_name)}</text>'
    )
    parts += [_rule(n, name, float(to_y(value)), box) for n, (name, value) in enumerate(rules.items())]
    parts += [_band(n, line, to_x, to_y) for n, line in enumerate(lines)]
    ends = _spread([float(to_y(line.y[-1])) for line in lines])
    parts += [_curve(n, line, to_x, to_y, end, box[1]) for n, (line, end) in enumerate(zip(lines, ends, strict=True))]
    parts += [_ring(n, to_x(line.ring[0]), to_y(line.ring[1])) for n, line in enumerate(lines) if line.ring]
    said = "; ".join(f"{line.name} from {line.y[0]:.3g} to {line.y[-1]:.3g}" for line in lines)
    label = escape(f"{title}: {said}", quote=True)
    caption = escape(title) + (f' <span class="soft">{escape(y_name)}</span>' if y_name else "")
    drawing = f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    return f"<figure><figcaption>{caption}</figcaption>{drawing}</figure>"


def _thinned(line: Line) -> Line:
    good = np.isfinite(line.x) & np.isfinite(line.y)
    x, y = line.x[good].astype(float), line.y[good].astype(float)
    band = None if line.band is None else (line.band[0][good], line.band[1][good])
    if len(x) > POINTS:
        bins = np.array_split(np.arange(len(x)), POINTS)

        def mean(values: np.ndarray) -> np.ndarray:
            return np.array([values[b].mean() for b in bins])

        x, y, band = mean(x), mean(y), None if band is None else (mean(band[0]), mean(band[1]))
    return replace(line, x=x, y=y, band=band)


def _range(parts: Sequence[np.ndarray | Sequence[float]]) -> tuple[float, float]:
    values = np.concatenate([np.asarray(part, dtype=float) for part in parts])
    return float(np.nanmin(values)), float(np.nanmax(values))


def _step_axis(span: tuple[float, float], box: tuple[float, float, float, float]):
    ticks = [t for t in MaxNLocator(5, integer=True).tick_values(*_wide(span)) if span[0] <= t <= span[1]]
    return _scale(_wide(span), box[0], box[1]), ticks


def _log_axis(span: tuple[float, float], box: tuple[float, float, float, float]):
    """A little room on both sides, and a handful of ticks."""
    low, high = np.log(span[0]), np.log(span[1])
    room, ticks = 0.04 * (high - low) or 0.5, [*span]
    for subs in ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)):
        ticks = [t for t in LogLocator(subs=subs).tick_values(*_wide_log(span)) if span[0] * 0.999 <= t <= span[1] * 1.001]
        if len(ticks) <= 5:
            break
    to_x = _scale((low - room, high + room), box[0], box[1])
    return lambda value: to_x(np.log(value)), ticks if len(ticks) > 1 else sorted({*span})


def _wide(span: tuple[float, float]) -> tuple[float, float]:
    return span if span[1] > span[0] else (span[0] - 0.5, span[1] + 0.5)


def _wide_log(span: tuple[float, float]) -> tuple[float, float]:
    return span if span[1] > span[0] else (span[0] / 2, span[1] * 2)


def _scale(span: tuple[float, float], start: float, end: float):
    return lambda value: start + (value - span[0]) / (span[1] - span[0]) * (end - start)


def _y_tick(value: float, y: float, box: tuple[float, float, float, float]) -> str:
    grid = f'<line class="grid" x1="{box[0]}" x2="{box[1]:.0f}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return f'{grid}<text class="tick" x="{box[0] - 6}" y="{y + 3.5:.1f}" text-anchor="end">{_said(value)}</text>'


def _said(value: float) -> str:
    """A tick's number.

    Example:
        >>> _said(20000.0), _said(0.25), _said(2e6)
        ('20,000', '0.25', '2M')
    """
    if abs(value) >= 1e6:
        return f"{value / 1e6:,.4g}M"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _rule(number: int, name: str, y: float, box: tuple[float, float, float, float]) -> str:
    """A level line; the first one's name stands at its right end, the second one's in its middle, so that they never cover each other."""
    x, anchor = (box[1] - 3, "end") if number == 0 else ((box[0] + box[1]) / 2, "middle")
    below = number == 1 and y + 14 < box[2]
    line = f'<line class="rule" x1="{box[0]}" x2="{box[1]:.0f}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return f'{line}<text class="tick" x="{x:.0f}" y="{y + 11 if below else y - 3:.1f}" text-anchor="{anchor}">{escape(name)}</text>'


def _band(number: int, line: Line, to_x, to_y) -> str:
    if line.band is None or len(line.x) < 2:
        return ""
    there = [*zip(line.x, line.band[1], strict=True), *reversed([*zip(line.x, line.band[0], strict=True)])]
    return f'<polygon class="b{number % 7}" points="{" ".join(f"{to_x(x):.1f},{to_y(y):.1f}" for x, y in there)}"/>'


def _curve(number: int, line: Line, to_x, to_y, end: float, right: float) -> str:
    points = " ".join(f"{to_x(x):.1f},{to_y(y):.1f}" for x, y in zip(line.x, line.y, strict=True))
    dash = f' stroke-dasharray="{_DASHES[number % len(_DASHES)]}"' if number % len(_DASHES) else ""
    name = line.name if len(line.name) <= 26 else line.name[:25] + "…"
    curve = f'<polyline class="l{number % 7}" points="{points}"{dash}/>'
    if len(line.x) == 1 or line.band is not None:
        radius = 3.5 if len(line.x) == 1 else 2.6
        places = zip(line.x, line.y, strict=True)
        curve += "".join(f'<circle class="d{number % 7}" cx="{to_x(x):.1f}" cy="{to_y(y):.1f}" r="{radius}"/>' for x, y in places)
    return f'{curve}<text class="name t{number % 7}" x="{right + 6:.0f}" y="{end + 3.5:.1f}">{escape(name)}</text>'


def _ring(number: int, x: float, y: float) -> str:
    return f'<circle class="r{number % 7}" cx="{x:.1f}" cy="{y:.1f}" r="5.5"/>'


def _spread(places: Sequence[float], gap: float = 13.0) -> list[float]:
    """The places of the names, moved apart so that none covers another."""
    order = np.argsort(places, kind="stable")
    out = np.array(places, dtype=float)
    for before, here in pairwise(order):
        out[here] = max(out[here], out[before] + gap)
    over = out.max() - (HEIGHT - _BOTTOM + 6)
    if over > 0:
        out[order[-1]] -= over
        for after, here in pairwise(order[::-1]):
            out[here] = min(out[here], out[after] - gap)
    return out.tolist()


def training_charts(entries: Sequence[Entry]) -> list[str]:
    """The loss of all runs, their speed, their evaluations on the way, and each run's loss in parts."""
    told = [entry for entry in entries if entry.history.steps]
    charts = [
        line_chart("Training loss", [_steps_line(e, "loss", e.name) for e in told], y_name="different losses are not comparable"),
        line_chart("Speed", [_steps_line(e, "images_per_s", e.name) for e in told], y_name="images per second"),
        line_chart("Evaluations on the way", _evaluation_lines(told), y_name="on the split val"),
    ]
    for entry in told:
        parts = [name for name in dict.fromkeys(key for row in entry.history.steps for key in row) if name.startswith("loss/")]
        parts = [name for name in parts if name.count("/") == 1] or parts
        if len(parts) > 1:
            charts.append(line_chart(f"{entry.name}: parts of the loss", [_steps_line(entry, p, p[5:]) for p in parts]))
    return [chart for chart in charts if chart]


def _steps_line(entry: Entry, key: str, name: str) -> Line:
    rows = [(row["step"] + 1, row[key]) for row in entry.history.steps if isinstance(row.get(key), int | float)]
    x, y = np.array(rows, dtype=float).reshape(-1, 2).T
    return Line(name, x, y)


def _evaluation_lines(entries: Sequence[Entry]) -> list[Line]:
    lines = []
    for entry in entries:
        rows = entry.history.evaluations
        metric = entry.history.recipe.get("saving", {}).get("metric") or next(iter(rows[0][1]), "") if rows else ""
        points = [(step, numbers[metric]) for step, numbers in rows if metric in numbers]
        x, y = np.array(points, dtype=float).reshape(-1, 2).T
        lines.append(Line(f"{entry.name} {metric}", x, y))
    return lines


def interval_bar(figure: Figure) -> str:
    """A share on a line from 0 to 1: the interval, the value as a dot, chance as a tick, the shuffled control as a ring; "" for other
    units. It repeats the numbers beside it, so it is hidden from screen readers."""
    if figure.unit != "share" or not np.isfinite([figure.value, figure.low, figure.high]).all():
        return ""
    low, value, high = (4 + 92 * min(1.0, max(0.0, x)) for x in (figure.low, figure.value, figure.high))
    parts = [
        '<line class="axis" x1="4" x2="96" y1="6" y2="6"/>',
        f'<line class="span" x1="{low:.1f}" x2="{high:.1f}" y1="6" y2="6"/>',
    ]
    if figure.chance is not None:
        x = 4 + 92 * figure.chance
        parts.append(f'<line class="chance" x1="{x:.1f}" x2="{x:.1f}" y1="1" y2="11"/>')
    if figure.shuffled is not None:
        parts.append(f'<circle class="ring" cx="{4 + 92 * figure.shuffled:.1f}" cy="6" r="2.6"/>')
    parts.append(f'<circle class="dot" cx="{value:.1f}" cy="6" r="3"/>')
    return f'<svg class="bar" viewBox="0 0 100 12" aria-hidden="true">{"".join(parts)}</svg>'
