"""Results on the console: per task the figures over all items, a table of groups (kinds, roles) by metric, and the protocol."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from wholegrain.evaluation.result import Figure, TaskResult

_IN_FILE_ONLY = ("_expected", "tie_rate", "@5", "@10", "_rank", "picks_picture")
"""Metrics with these endings are left out of the table of groups; results.json has them all."""


def overall_table(result: TaskResult) -> Table | None:
    """The figures over all items with interval, chance and control; ``None`` if there are none.

    An ``expected`` row that equals the strict one above it, and a tie rate of zero, are left out: nothing was tied.
    """
    values = result.metrics
    shown = [f for f in result.figures if "/" not in f.name and not _says_nothing(f, values)]
    if not shown:
        return None
    table = Table(expand=False)
    table.add_column("figure", overflow="fold")
    for name in ("value", "95% interval", "chance", "shuffled", "items"):
        table.add_column(name, justify="right", no_wrap=True)
    notes = any(figure.note for figure in shown)
    if notes:
        table.add_column("note", overflow="fold")
    for figure in shown:
        cells = [show(figure.value, figure.unit), f"{show(figure.low, figure.unit)} – {show(figure.high, figure.unit)}"]
        cells += [show(figure.chance, figure.unit), show(figure.shuffled, figure.unit), f"{figure.count:,}"]
        table.add_row(figure.name, *cells, *([figure.note] if notes else []))
    return table


def _says_nothing(figure: Figure, values: dict[str, float]) -> bool:
    strict = figure.name.removesuffix("_expected")
    return (strict != figure.name and values.get(strict) == figure.value) or (
        figure.name.endswith("tie_rate") and figure.value == 0
    )


def group_table(result: TaskResult) -> Table | None:
    """Groups by their main metrics: value and interval, below them chance and control; ``None`` without groups."""
    cells: dict[str, dict[str, Figure]] = {}
    for figure in result.figures:
        group, _, metric = figure.name.rpartition("/")
        if group and not metric.endswith(_IN_FILE_ONLY):
            cells.setdefault(group, {})[metric] = figure
    if not cells:
        return None
    metrics = list(dict.fromkeys(metric for row in cells.values() for metric in row))
    table = Table(expand=False, show_lines=True)
    table.add_column("", overflow="fold")
    for metric in metrics:
        table.add_column(metric.replace("_", " "), justify="right", overflow="fold")
    table.add_column("items", justify="right", no_wrap=True)
    for group, row in cells.items():
        counts = max(figure.count for figure in row.values())
        table.add_row(group, *(_cell(row.get(metric)) for metric in metrics), f"{counts:,}")
    return table


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    low, high = (show(x, figure.unit).rstrip("%") for x in (figure.low, figure.high))
    lines = [f"[bold]{show(figure.value, figure.unit)}[/] {low}–{high}"]
    for name, value in (("chance", figure.chance), ("shuffled", figure.shuffled)):
        if value is not None:
            lines.append(f"[dim]{name} {show(value, figure.unit)}[/]")
    return "\n".join(lines)


def show(value: float | None, unit: str) -> str:
    """A value fit to print.

    Example:
        >>> show(0.5, "share"), show(12.25, "rank"), show(None, "share"), show(-0.015, "points")
        ('50.0%', '12.2', '–', '-1.5')
    """
    if value is None or not math.isfinite(value):
        return "–"
    if unit == "share":
        return f"{100 * value:.1f}%"
    return {"points": f"{100 * value:+.1f}", "rank": f"{value:,.1f}"}.get(unit, f"{value:.3f}")


def print_results(results: Sequence[TaskResult], console: Console | None = None) -> None:
    """Prints each task's name, its tables and its protocol."""
    console = console or Console()
    for result in results:
        console.print(f"[bold]{result.task}[/]")
        for table in (overall_table(result), group_table(result)):
            if table is not None:
                console.print(table)
        console.print(result.protocol, style="italic", markup=False, highlight=False)
        console.print()
