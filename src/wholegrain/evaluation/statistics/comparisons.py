"""Models against each other over a whole suite: every main figure's paired difference, with p values that allow for how many were looked at.

Both models answer the same items, so differences are taken item by item and images are drawn whole
(:func:`~wholegrain.evaluation.statistics.intervals.paired_difference`). With forty figures two differ "at 5%" by luck; so the p values of all figures
and all models are corrected together by Holm's step-down rule (1979), which holds whatever the figures have to do with each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from wholegrain.errors import UserError
from wholegrain.evaluation.result import TaskResult
from wholegrain.evaluation.show import in_words, narrow_table, show
from wholegrain.evaluation.statistics.compare import compare, figure_items
from wholegrain.evaluation.statistics.intervals import Difference

SIDE_FIGURES = (
    "_expected",
    "tie_rate",
    "_rank",
    "@5",
    "@10",
    "blind_shorter",
    "blind_unigram",
    "majority_miou",
    "confidence",
    "overconfidence",
    "centre_hit",
    "centre_iou",
    "area",
)
"""Endings of figures that are controls or repeat another one; they are left out unless all are asked for."""


@dataclass(frozen=True)
class Compared:
    """One figure of one model against the reference.

    Attributes:
        task, figure: which figure.
        name: the model.
        unit: of the figure.
        reference, value: the two values.
        difference: paired, model minus reference.
        p: corrected over everything compared in the call.
    """

    task: str
    figure: str
    name: str
    unit: str
    reference: float
    value: float
    difference: Difference
    p: float

    @property
    def clear(self) -> bool:
        """Whether the corrected p value is below 5%."""
        return self.p < 0.05


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's adjusted p values, in the order given.

    Example:
        >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
        [0.03, 0.06, 0.06]
    """
    p_N = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_N, kind="stable")
    adjusted = np.maximum.accumulate(p_N[order] * np.arange(len(p_N), 0, -1)) if len(p_N) else p_N
    out = np.empty_like(p_N)
    out[order] = np.minimum(adjusted, 1.0)
    return out


def compare_all(
    models: Mapping[str, Sequence[TaskResult]], *, groups: bool = False, everything: bool = False, seed: int = 0
) -> tuple[list[Compared], list[str]]:
    """The first model against each of the others.

    Args:
        models: name -> results.
        groups: figures of groups (kinds, roles), too.
        everything: also :data:`SIDE_FIGURES`.

    Returns:
        what could be compared, and a sentence for every task with figures that could not.

    Raises:
        UserError: with fewer than two models, or when nothing could be compared.
    """
    if len(models) < 2:
        raise UserError("A comparison needs the results of two models.")
    (_, first), *others = models.items()
    found: list[tuple[TaskResult, str, str, float, Difference]] = []
    problems: list[str] = []
    for name, results in others:
        by_task = {result.task: result for result in results}
        for mine in first:
            theirs = by_task.get(mine.task)
            if theirs is None:
                problems.append(f"{name} has no results of {mine.task}.")
                continue
            refused: list[str] = []
            for figure in _names(mine, theirs, groups, everything):
                try:
                    gap = compare(theirs, mine, figure, seed=seed)
                except UserError as reason:
                    refused.append(f"{figure}: {reason}")
                    continue
                found.append((mine, figure, name, theirs.metrics[figure], gap))
            if refused:
                others = f" (and {len(refused) - 1} more figures)" if len(refused) > 1 else ""
                problems.append(f"{name}, {mine.task} {refused[0]}{others}")
    if not found:
        raise UserError("Nothing could be compared: " + " ".join(problems[:3]))
    p_N = holm([gap.p for *_, gap in found])
    rows = [
        Compared(mine.task, figure, name, mine.figure(figure).unit, mine.metrics[figure], value, gap, float(p))
        for (mine, figure, name, value, gap), p in zip(found, p_N, strict=True)
    ]
    return rows, problems


def _names(a: TaskResult, b: TaskResult, groups: bool, everything: bool) -> list[str]:
    """Figures that both have and that are means over items."""
    names = [name for name in a.metrics if name in b.metrics and (groups or "/" not in name)]
    names = names or [name for name in a.metrics if name in b.metrics]  # a task that has groups alone
    names = [name for name in names if everything or not name.endswith(SIDE_FIGURES)]
    return [name for name in names if _is_mean(a, name)]


def _is_mean(result: TaskResult, name: str) -> bool:
    try:
        return len(figure_items(result, name)[0]) > 0
    except UserError:
        return False


def print_comparison(rows: Sequence[Compared], reference: str, console: Console | None = None) -> None:
    """Prints a table for each model; 80 columns are enough."""
    console = console or Console()
    for name in dict.fromkeys(row.name for row in rows):
        console.print(f"A: {reference}\nB: {name}", markup=False, highlight=False, soft_wrap=True)
        console.print(_table([row for row in rows if row.name == name]))
    clear = sum(row.clear for row in rows)
    legend = f"p: after Holm's correction over {len(rows)} differences; *: below 5% ({clear} of them)."
    console.print(legend, highlight=False)


def _table(rows: Sequence[Compared]) -> Table:
    table, before = narrow_table("figure", ("A", "B", "B - A", "95% interval", "p")), ""
    for row in rows:
        group, _, metric = row.figure.rpartition("/")
        part = f"{row.task}: {group}" if group else row.task
        if part != before:
            table.add_row(Text(in_words(part), "bold"))
            before = part
        gap, unit = row.difference, "points" if row.unit == "share" else row.unit
        cells = [show(row.reference, row.unit), show(row.value, row.unit), show(gap.value, unit) + ("*" if row.clear else " ")]
        luck = "<.001" if row.p < 0.001 else f"{row.p:.3f}"
        table.add_row(in_words(metric), *cells, f"{show(gap.low, unit)} to {show(gap.high, unit)}", luck)
    return table
