"""Curves as tables of text: two CSV files with everything, Markdown, and a table for a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

import numpy as np
from rich.console import Group
from rich.text import Text

from wholegrain.evaluation.show import narrow_table
from wholegrain.evaluation.statistics.levels import Spent
from wholegrain.report.curves import Curves, times
from wholegrain.report.standings import percent
from wholegrain.report.tables import Column


def curves_csv(curves: Curves) -> str:
    """One line per method, budget and figure: value, interval, every seed, chance, and the difference at this budget with its interval."""
    head = ["method", "budget", "pairs", "seconds", "seconds_by_seed", "task", "figure", "value", "low", "high", "by_seed", "chance"]
    head += ["reference", "difference", "difference_low", "difference_high"]
    spent = {(curve.name, point.budget): (point.pairs, point.seconds) for curve in curves.curves for point in curve.points}
    lines: list[list[object]] = []
    for budget, standings in curves.standings.items():
        for (name, column), cell in standings.cells.items():
            pairs, seconds = spent.get((name, budget), (0, (0.0,)))
            if name == curves.start.name and budget != curves.budgets[0]:
                continue  # it is the same at all
            gap = [None] * 3 if cell.difference is None else [cell.difference.value, cell.difference.low, cell.difference.high]
            cells = [cell.mean.value, cell.mean.low, cell.mean.high, _many(cell.mean.by_seed), standings.chance(column)]
            steps = 0 if name == curves.start.name else budget
            lines.append([name, steps, pairs, float(np.mean(seconds)), _many(seconds), column.task, column.figure, *cells, curves.reference, *gap])
    return _sheet(head, lines)


def levels_csv(curves: Curves) -> str:
    """One line per method and figure: the level, and what is needed to reach it, with intervals; ``inf`` is not reached, 0 without training."""
    names = ("pairs", "pairs_share", "seconds", "seconds_share")
    head = ["method", "task", "figure", "reference", "level", *(f"{name}{end}" for name in names for end in ("", "_low", "_high"))]
    lines = [
        [name, column.task, column.figure, curves.reference, needed.level, *(x for what in names for x in _ends(getattr(needed, what)))]
        for (name, column), needed in curves.needed.items()
    ]
    return _sheet(head, lines)


def _ends(spent: Spent | None) -> list[float | None]:
    return [None] * 3 if spent is None else [spent.value, spent.low, spent.high]


def _many(values: Iterable[float]) -> str:
    return " ".join(f"{value:.6g}" for value in values)


def _sheet(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    out = io.StringIO()
    sheet = csv.writer(out, lineterminator="\n")
    sheet.writerow(head)
    sheet.writerows(["" if x is None else f"{x:.6g}" if isinstance(x, float) else x for x in line] for line in lines)
    return out.getvalue()


def curves_markdown(curves: Curves) -> str:
    """A table a figure: methods by budgets with intervals in small print, and what each needs."""
    parts = [curves.finding, "", curves.note]
    for column in curves.columns:
        head = ["", *(f"{budget:,} steps" for budget in curves.budgets), f"pairs to {percent(curves.level(column))}", "seconds"]
        parts += ["", f"## {column.title}", "", _row(head), _row(["---", *("---:" for _ in head[1:])])]
        for curve in curves.curves:
            cells = [_figure(curves, curve.name, budget, column) for budget in curves.budgets]
            needed = needed_words(curves, curve.name, column)
            parts.append(_row([curve.name, *cells, *(f"{value}<br><sub>{ends}</sub>" if ends else value for value, ends in needed)]))
        begun = _figure(curves, curves.start.name, curves.budgets[0], column)
        parts.append(_row([curves.start.name, begun, *("" for _ in head[2:])]))
        parts.append(_row(["chance", percent(curves.last.chance(column)), *("" for _ in head[2:])]))
    return "\n".join(parts) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _figure(curves: Curves, name: str, budget: int, column: Column) -> str:
    """A cell of Markdown."""
    cell = curves.cell(name, budget, column)
    if cell is None:
        return "–"
    star = "*" if cell.significant else ""
    return f"{percent(cell.mean.value)}{star}<br><sub>{percent(cell.mean.low)}–{percent(cell.mean.high)}</sub>"


def needed_words(curves: Curves, name: str, column: Column) -> list[tuple[str, str]]:
    """What a method needs, pairs and seconds, each with its interval."""
    needed = curves.needed.get((name, column))
    if needed is None:
        return [("–", "")] * 2
    curve = next(curve for curve in curves.curves if curve.name == name)
    found = [_amount(needed.pairs, float(curve.pairs[0]))]
    return [*found, ("–", "") if needed.seconds is None else _amount(needed.seconds, float(curve.seconds[:, 0].mean()))]


def _amount(spent: Spent, least: float) -> tuple[str, str]:
    """In words; ``least`` is what the smallest budget takes: less may have been enough.

    Example:
        >>> _amount(Spent(2400.0, 2400.0, float("inf")), 2400.0)
        ('at most 2,400', '2,400 to not reached')
    """
    said = [_number(value) for value in (spent.value, spent.low, spent.high)]
    value = f"at most {said[0]}" if np.isclose(spent.value, least) else said[0]
    return value, "" if {*said} <= {"none", "not reached"} and len({*said}) == 1 else f"{said[1]} to {said[2]}"


def _number(value: float) -> str:
    if value == 0 or not np.isfinite(value):
        return "none" if value == 0 else "not reached"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def needed_table(curves: Curves, width: int = 80) -> Group:
    """For a terminal: a row a figure, a column a method: the share of the reference's pairs that its last value takes, and the interval."""
    others = [curve.name for curve in curves.curves if curve.name != curves.reference] or [curves.reference]
    title = min(max(len(column.title) for column in curves.columns), 25)
    fit = max(1, (width - title - 8) // 35)
    said = f"Pairs needed for the value of {curves.reference} at {curves.budgets[-1]:,} steps, as a share of its own; 95% intervals in brackets."
    blocks = []
    for first in range(0, len(others), fit):
        table = narrow_table("", ["level", *others[first : first + fit]])
        for column in curves.columns:
            found = [curves.needed.get((name, column)) for name in others[first : first + fit]]
            table.add_row(column.title, percent(curves.level(column)), *("–" if n is None else times(n.pairs_share) for n in found))
        blocks.append(table)
    return Group(Text(said), *blocks)
