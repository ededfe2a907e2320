"""Where runs of the scenes stand among the published ones: their points on the curves and bands of docs/results.

``assets/published.json`` holds the published figures; ``make results`` writes it from the kept runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wholegrain.files import read_json
from wholegrain.report.entry import Entry
from wholegrain.report.figures import Line, line_chart

LEAST_CHANCE = 0.01
"""Below it, a line of chance would only press the curves together."""


@dataclass(frozen=True)
class PublishedCurve:
    """One method in one figure.

    Attributes:
        figure: its name in results: a method's own read-out or branch where it has one.
        points: for each budget the mean over seeds and the ends of its 95% interval over seeds and items, shares.
    """

    figure: str
    points: list[list[float]]


@dataclass(frozen=True)
class PublishedFigure:
    """A figure of all methods that have it; ``curves`` by a method's name in recipes."""

    title: str
    task: str
    chance: float | None
    curves: dict[str, PublishedCurve]


@dataclass(frozen=True)
class Published:
    """The published comparison on the scenes.

    Attributes:
        data: content hash of the data set.
        seeds: of training.
        pairs: pictures seen at each budget, each with its captions.
        figures: each with its curves.
    """

    data: str
    seeds: list[int]
    pairs: list[int]
    figures: list[PublishedFigure]


@dataclass(frozen=True)
class Among:
    """Charts of runs among the published ones, and what they show, in a sentence."""

    charts: Sequence[str]
    said: str


def load_published() -> Published:
    """What ships with the package."""
    return read_json(Path(__file__).parents[1] / "assets" / "published.json", Published, "install wholegrain again")


def among_published(published: Published, entries: Mapping[str, Entry], pairs: int) -> Among:
    """A chart a figure: the published curve and band of every method that was run here, and a ring where it stands here.

    Args:
        entries: what was run here, by a method's name in recipes.
        pairs: pictures that each of them has seen.
    """
    charts = [_chart(published, figure, entries, pairs) for figure in published.figures]
    seeds = f"{len(published.seeds)} training seed{'s' * (len(published.seeds) > 1)}"
    said = f"Lines and bands: the published runs, {seeds}, 95% intervals over seeds and test items. Rings: this run."
    return Among([chart for chart in charts if chart], said)


def _chart(published: Published, figure: PublishedFigure, entries: Mapping[str, Entry], pairs: int) -> str:
    lines: Sequence[Line] = [
        _line(entry, figure, figure.curves[method], published.pairs, pairs) for method, entry in entries.items() if method in figure.curves
    ]
    rules = {} if figure.chance is None or figure.chance < LEAST_CHANCE else {"chance": 100 * figure.chance}
    return line_chart(figure.title, lines, x_name="pictures seen", y_name="per cent", log_x=True, rules=rules)


def _line(entry: Entry, figure: PublishedFigure, curve: PublishedCurve, seen: Sequence[int], pairs: int) -> Line:
    value_B, low_B, high_B = 100 * np.array(curve.points, dtype=float).T
    here = entry.figure(figure.task, curve.figure)
    return Line(entry.name, np.array(seen, dtype=float), value_B, (low_B, high_B), None if here is None else (pairs, 100 * here.value))
