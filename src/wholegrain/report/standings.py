"""Standings: methods by figures over training seeds, each with its interval and its paired difference from a reference method.

The same table for a terminal, for Markdown and LaTeX, as CSV with everything in it, and as a page (standings_page.py).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from rich.table import Table

from wholegrain.errors import UserError
from wholegrain.evaluation.compare import Mean, mean_over_seeds
from wholegrain.evaluation.result import TaskResult
from wholegrain.report.entry import Entry
from wholegrain.report.tables import Column, kind_comparisons, main_comparison

CLEAR = "*: the 95% interval of the paired difference from {reference} leaves out zero"


@dataclass(frozen=True)
class Standing:
    """One method's row.

    Attributes:
        name: unique.
        results: the results of each training seed.
        cost: seconds a training step took, ``None`` if unknown.
    """

    name: str
    results: Sequence[Sequence[TaskResult]]
    cost: float | None = None

    def of(self, task: str) -> list[TaskResult]:
        """The results of one task, seed by seed; empty where it was not done."""
        return [result for results in self.results for result in results if result.task == task]


@dataclass(frozen=True)
class Place:
    """A cell: the figure, and its difference from the reference (``None`` for the reference itself, or where items differ)."""

    mean: Mean
    gap: Mean | None

    @property
    def clear(self) -> bool:
        """The difference's interval leaves out zero."""
        return self.gap is not None and (self.gap.low > 0 or self.gap.high < 0)


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
        kinds = [c for c in kind_comparisons(entries) if c.title.startswith("Twins")]
        return [column for table in (main_comparison(entries), *kinds) for column in table.columns]

    @cached_property
    def places(self) -> dict[tuple[str, Column], Place]:
        """(name, column) -> cell, where the method has the figure."""
        reference = next(row for row in self.rows if row.name == self.reference)
        return {
            (row.name, column): place
            for row in self.rows
            for column in self.columns
            if (place := _place(row, reference, column)) is not None
        }

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
        return f"Per cent; {seeds}intervals (95%) over {over}. {CLEAR.format(reference=self.reference)}."

    def as_table(self) -> Table:
        """For the terminal: values and marks."""
        table = Table(title=self.note, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
        for title in ("", *(column.title for column in self.columns), "time"):
            table.add_column(title, justify="right" if title else "left", overflow="fold")
        for row in self.rows:
            cells = [self._value(row, column) for column in self.columns]
            table.add_row(row.name, *cells, self.time_of(row), end_section=row is self.rows[-1])
        table.add_row("chance", *(_percent(self.chance(column)) for column in self.columns), "")
        return table

    def as_markdown(self) -> str:
        """With intervals in small print."""
        head = ["", *(column.title for column in self.columns), "time"]
        lines = [self.note, "", _row(head), _row(["---", *("---:" for _ in head[1:])])]
        for row in self.rows:
            cells = [self._value(row, c) + self._interval(row, c, "<br><sub>{}–{}</sub>") for c in self.columns]
            lines.append(_row([row.name, *cells, self.time_of(row)]))
        lines.append(_row(["chance", *(_percent(self.chance(column)) for column in self.columns), ""]))
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
        sheet.writerow([*head[:10], "difference_low", "difference_high", "seconds_per_step"])
        for (name, column), place in self.places.items():
            mean, gap = place.mean, place.gap
            numbers = [mean.value, mean.low, mean.high, " ".join(map(_exact, mean.by_seed)), self.chance(column)]
            gaps = [None] * 3 if gap is None else [gap.value, gap.low, gap.high]
            cost = next(row.cost for row in self.rows if row.name == name)
            cells = [name, column.task, column.figure, *numbers, self.reference, *gaps, cost]
            sheet.writerow([_exact(cell) if isinstance(cell, float) else "" if cell is None else cell for cell in cells])
        return out.getvalue()

    def _value(self, row: Standing, column: Column) -> str:
        place = self.places.get((row.name, column))
        return "–" if place is None else _percent(place.mean.value) + ("*" if place.clear else "")

    def _interval(self, row: Standing, column: Column, form: str) -> str:
        place = self.places.get((row.name, column))
        return "" if place is None else form.format(_percent(place.mean.low), _percent(place.mean.high))

    def time_of(self, row: Standing) -> str:
        """A step's time as a multiple of the reference's."""
        known = next((r.cost for r in self.rows if r.name == self.reference), None)
        return "–" if row.cost is None or not known else f"{row.cost / known:.2f}x"


def _place(row: Standing, reference: Standing, column: Column) -> Place | None:
    results, others = row.of(column.task), reference.of(column.task)
    if not results or any(column.figure not in result.metrics for result in results):
        return None
    mean, gap = mean_over_seeds(results, column.figure), None
    if row is not reference and len(others) in (1, len(results)):
        try:
            gap = mean_over_seeds(results, column.figure, minus=others * (len(results) // len(others)))
        except UserError:  # other items
            gap = None
    return Place(mean, gap)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _exact(number: float) -> str:
    return f"{number:.6g}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _tex(text: str) -> str:
    return text.replace("_", r"\_").replace("%", r"\%").replace("→", r"$\to$")
