"""Results on the console: per task the figures over all items, then group by group (kinds, roles), and the protocol; 80 columns are enough."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from wholegrain.evaluation.result import Figure, TaskResult

_IN_FILE_ONLY = ("_expected", "tie_rate", "@5", "@10", "_rank", "picks_picture")
"""Metrics with these endings are left out of the groups; results.json has them all."""


def figure_table(result: TaskResult) -> Table:
    """One line a figure, with interval, chance and control: those over all items, then each group's main ones below its name.

    An ``expected`` row that equals the strict one above it, and a tie rate of zero, are left out: nothing was tied.
    """
    values = result.metrics
    groups: dict[str, list[Figure]] = {"": [f for f in result.figures if "/" not in f.name and not _says_nothing(f, values)]}
    for figure in result.figures:
        group, _, metric = figure.name.rpartition("/")
        if group and not metric.endswith(_IN_FILE_ONLY):
            groups.setdefault(group, []).append(figure)
    table = narrow_table("figure", ("value", "95% interval", "chance", "shuffled", "items"))
    for group, figures in groups.items():
        if group:
            table.add_row(Text(in_words(group), "bold"))
        for figure in figures:
            name = Text(in_words(figure.name.rpartition("/")[2]))
            if figure.note:
                name.append(f"\n{figure.note}", "dim")
            cells = [show(figure.value, figure.unit), f"{show(figure.low, figure.unit)} – {show(figure.high, figure.unit)}"]
            cells += [show(figure.chance, figure.unit), show(figure.shuffled, figure.unit), f"{figure.count:,}"]
            table.add_row(name, *cells)
    return table


def narrow_table(first: str, numbers: Sequence[str]) -> Table:
    """A table of numbers whose first column wraps between words; its own words should be shorter than about 30 letters."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, expand=False)
    table.add_column(first, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def in_words(name: str) -> str:
    """A figure's or a group's name with places to wrap at.

    Example:
        >>> in_words("image_retrieval_recall@1")
        'image retrieval recall@1'
    """
    return name.replace("_", " ").replace("/", " / ")


def _says_nothing(figure: Figure, values: dict[str, float]) -> bool:
    strict = figure.name.removesuffix("_expected")
    return (strict != figure.name and values.get(strict) == figure.value) or (
        figure.name.endswith("tie_rate") and figure.value == 0
    )


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


def left_out_lines(reasons: Sequence[Mapping[str, str]]) -> list[str]:
    """One sentence for each task and reason, with the count of models that it holds of.

    Args:
        reasons: task -> reason of each model.

    Example:
        >>> left_out_lines([{"grounding": "No boxes."}, {"grounding": "No boxes."}, {}])
        ['left out: grounding, of 2 of 3 models. No boxes.']
    """
    counts = Counter((task, why) for one in reasons for task, why in one.items())
    of = f" of {len(reasons)} models"
    return [f"left out: {task}{f', of {n}{of}' if len(reasons) > 1 else ''}. {why}" for (task, why), n in counts.items()]


def print_results(results: Sequence[TaskResult], console: Console | None = None) -> None:
    """Prints each task's name, its table and its protocol."""
    console = console or Console()
    for result in results:
        console.print(f"[bold]{result.task}[/]")
        console.print(figure_table(result))
        console.print(result.protocol, style="italic", markup=False, highlight=False)
        console.print()
