"""Standings: methods by figures over training seeds, each with its interval and its paired difference from a reference method.

The same table for a terminal, for Markdown and LaTeX, as CSV with everything in it, and as a page (standings_page.py).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from wholegrain.errors import UserError
from wholegrain.evaluation.result import TaskResult
from wholegrain.evaluation.show import narrow_table
from wholegrain.evaluation.statistics.compare import Mean, mean_over_seeds
from wholegrain.report.entry import Entry
from wholegrain.report.tables import Column, kind_comparisons, leaders, main_comparison

SIGNIFICANT = "*: the 95% interval of the paired difference from {reference} leaves out zero"


@dataclass(frozen=True)
class Standing:
    """One method's row.

    Attributes:
        name: unique.
        results: the results of each training seed.
        steps: seconds that each training step took, over all seeds; empty if unknown.
    """

    name: str
    results: Sequence[Sequence[TaskResult]]
    steps: Sequence[float] = ()

    @property
    def cost(self) -> float | None:
        """Median of ``steps``."""
        return float(np.median(self.steps)) if self.steps else None

    def of(self, task: str) -> list[TaskResult]:
        """The results of one task, seed by seed; empty where it was not done."""
        return [result for results in self.results for result in results if result.task == task]


@dataclass(frozen=True)
class MeanCell:
    """A cell: the figure, and its difference from the reference (``None`` for the reference itself, or where items differ)."""

    mean: Mean
    difference: Mean | None

    @property
    def significant(self) -> bool:
        """The difference's interval leaves out zero."""
        return self.difference is not None and (self.difference.low > 0 or self.difference.high < 0)


@dataclass(frozen=True)
class Standings:
    """The table.

    Args:
        rows: the methods; all figures that any of them has are shown.
        reference: the name of the method that the others are compared with.

    Raises:
        UserError: two rows of one name, or no row of the reference's.
    """

    rows: Sequence[Standing]
    reference: str

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        if len(set(names)) < len(names) or self.reference not in names:
            raise UserError(
                f"The standings need one row for each name and one for {self.reference!r}; they have {', '.join(names)}."
            )

    @cached_property
    def columns(self) -> list[Column]:
        """Main figures, then the group score of every kind of twin."""
        entries = [Entry(row.name, None, None, row.results[0]) for row in self.rows]
        kinds = [c for c in kind_comparisons(entries) if c.columns[0].task == "composition"]
        return [column for table in (main_comparison(entries), *kinds) for column in table.columns]

    @cached_property
    def cells(self) -> dict[tuple[str, Column], MeanCell]:
        """(name, column) -> cell, where the method has the figure."""
        reference = next(row for row in self.rows if row.name == self.reference)
        return {
            (row.name, column): cell
            for row in self.rows
            for column in self.columns
            if (cell := _cell(row, reference, column)) is not None
        }

    @cached_property
    def best(self) -> dict[Column, set[str]]:
        """Names of the rows that lead each column; see :func:`wholegrain.report.tables.leaders`."""
        return {column: self._leaders(column) for column in self.columns}

    def _leaders(self, column: Column) -> set[str]:
        cells = [self.cells.get((row.name, column)) for row in self.rows]

        def ends(one: int, other: int) -> tuple[float, float] | None:
            difference = _difference(self.rows[one], self.rows[other], column)
            return None if difference is None else (difference.low, difference.high)

        found = leaders([None if cell is None else cell.mean.value for cell in cells], ends, column.better)
        return {self.rows[place].name for place in found}

    @property
    def seeds(self) -> int:
        return max(len(row.results) for row in self.rows)

    def chance(self, column: Column) -> float | None:
        """What guessing scores, ``None`` where that has no meaning."""
        figures = [f for row in self.rows for result in row.of(column.task) for f in result.figures if f.name == column.figure]
        return figures[0].chance if figures else None

    @property
    def note(self) -> str:
        """How to read the table."""
        seeds = f"mean of {self.seeds} training seeds; " if self.seeds > 1 else "one training seed; "
        over = "pictures and seeds" if self.seeds > 1 else "pictures"
        return f"Per cent; {seeds}intervals (95%) over {over}. {SIGNIFICANT.format(reference=self.reference)}."

    def as_table(self, width: int = 80) -> Group:
        """For the terminal: a row a figure, and as many methods side by side as fit; further ones follow below."""
        title = min(max(len(column.title) for column in self.columns), 25)
        blocks: list[list[Standing]] = [[]]
        for row in self.rows:
            wide = (max(len(r.name), len(self.quartiles_of(r)), 6) + 2 for r in [*blocks[-1], row])
            taken = title + len("chance") + 5 + sum(wide)
            if blocks[-1] and taken > width:
                blocks.append([])
            blocks[-1].append(row)
        said = f"{self.note} Bold: the best, and what cannot be told apart from it."
        return Group(Text(said), *(self._block(rows) for rows in blocks))

    def _block(self, rows: Sequence[Standing]) -> Table:
        table = narrow_table("", [*(row.name for row in rows), "chance"])
        for column in self.columns:
            cells = [Text(self._value(row, column), "bold" if row.name in self.best[column] else "") for row in rows]
            table.add_row(column.title, *cells, percent(self.chance(column)))
        table.add_row("time of a step", *(self.time_of(row) for row in rows))
        table.add_row("its quartiles", *(self.quartiles_of(row) for row in rows))
        return table

    def as_markdown(self) -> str:
        """With intervals in small print."""
        head = ["", *(column.title for column in self.columns), "time"]
        lines = [self.note, "", _row(head), _row(["---", *("---:" for _ in head[1:])])]
        for row in self.rows:
            cells = [self._value(row, c) + self._interval(row, c, "<br><sub>{}–{}</sub>") for c in self.columns]
            lines.append(_row([row.name, *cells, self.time_of(row)]))
        lines.append(_row(["chance", *(percent(self.chance(column)) for column in self.columns), ""]))
        return "\n".join(lines) + "\n"

    def as_latex(self) -> str:
        """A ``tabular`` for the package booktabs."""
        head = " & ".join(["", *(_tex(column.title) for column in self.columns)])
        lines = ["% " + self.note, rf"\begin{{tabular}}{{l{'r' * len(self.columns)}}}", r"\toprule", head + r" \\", r"\midrule"]
        for row in self.rows:
            cells = [self._value(row, c).replace("*", "$^*$").replace("–", "--") for c in self.columns]
            lines.append(" & ".join([_tex(row.name), *cells]) + r" \\")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"

    def as_csv(self) -> str:
        """One line per method and figure: value, interval, every seed, chance, and the difference with its interval."""
        out = io.StringIO()
        sheet = csv.writer(out, lineterminator="\n")
        head = ["method", "task", "figure", "value", "low", "high", "by_seed", "chance", "reference", "difference", "low", "high"]
        times = ["seconds_per_step", "seconds_first_quartile", "seconds_third_quartile"]
        sheet.writerow([*head[:10], "difference_low", "difference_high", *times])
        for (name, column), cell in self.cells.items():
            mean, difference = cell.mean, cell.difference
            numbers = [mean.value, mean.low, mean.high, " ".join(map(_exact, mean.by_seed)), self.chance(column)]
            differences = [None] * 3 if difference is None else [difference.value, difference.low, difference.high]
            steps = next(row.steps for row in self.rows if row.name == name)
            seconds = [float(q) for q in np.percentile(steps, [50, 25, 75])] if steps else [None] * 3
            cells = [name, column.task, column.figure, *numbers, self.reference, *differences, *seconds]
            sheet.writerow([_exact(cell) if isinstance(cell, float) else "" if cell is None else cell for cell in cells])
        return out.getvalue()

    def _value(self, row: Standing, column: Column) -> str:
        cell = self.cells.get((row.name, column))
        return "–" if cell is None else percent(cell.mean.value) + ("*" if cell.significant else "")

    def _interval(self, row: Standing, column: Column, form: str) -> str:
        cell = self.cells.get((row.name, column))
        return "" if cell is None else form.format(percent(cell.mean.low), percent(cell.mean.high))

    def time_of(self, row: Standing) -> str:
        """A step's median time as a multiple of the reference's."""
        known = self._known_time
        return "–" if row.cost is None or not known else f"{row.cost / known:.2f}x"

    def quartiles_of(self, row: Standing) -> str:
        """The quartiles of a step's time, as multiples of the reference's median."""
        known = self._known_time
        return "" if not row.steps or not known else "–".join(f"{q / known:.2f}" for q in np.percentile(row.steps, [25, 75]))

    @property
    def _known_time(self) -> float | None:
        return next((row.cost for row in self.rows if row.name == self.reference), None)


def _cell(row: Standing, reference: Standing, column: Column) -> MeanCell | None:
    results = row.of(column.task)
    if not results or any(column.figure not in result.metrics for result in results):
        return None
    return MeanCell(mean_over_seeds(results, column.figure), None if row is reference else _difference(row, reference, column))


def _difference(row: Standing, other: Standing, column: Column) -> Mean | None:
    """The paired difference of two rows, one of which may have a single seed; ``None`` where seeds or items differ."""
    results, minus = row.of(column.task), other.of(column.task)
    count = max(len(results), len(minus))
    if not results or not minus or {len(results), len(minus)} - {1, count}:
        return None
    try:
        return mean_over_seeds(results * (count // len(results)), column.figure, minus=minus * (count // len(minus)))
    except UserError:  # other items
        return None


def percent(share: float | None) -> str:
    """A share as per cent with one decimal; nothing for ``None``."""
    return "" if share is None else f"{100 * share:.1f}"


def _exact(number: float) -> str:
    return f"{number:.6g}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _tex(text: str) -> str:
    return text.replace("_", r"\_").replace("%", r"\%").replace("→", r"$\to$")
