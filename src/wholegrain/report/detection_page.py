"""The page of a detector: pictures with boxes first, one sentence, then the figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wholegrain.evaluation.result import Figure, TaskResult
from wholegrain.evaluation.show import show
from wholegrain.report.page import page_environment

SIDE = 256
"""Pixels of a picture's longer side."""


@dataclass(frozen=True)
class DrawnBox:
    """A box in shares of the picture's sides.

    Attributes:
        x, y, width, height: 0..1.
        label: its name.
        mark: ``true`` (marked); or of a found one ``right``, ``wrong``, or ``open``: nobody says whether the name is there.
        score: of a found one.
        rare: the name was never trained.
    """

    x: float
    y: float
    width: float
    height: float
    label: str
    mark: str
    score: float | None = None
    rare: bool = False


@dataclass(frozen=True)
class BoxPanel:
    """One drawing of a picture: what it shows, and its boxes."""

    title: str
    boxes: Sequence[DrawnBox]


@dataclass(frozen=True)
class BoxCard:
    """A picture as a ``data:`` URI, its shown size, and its drawings."""

    uri: str
    width: int
    height: int
    key: str
    panels: Sequence[BoxPanel]


def detection_page(name: str, data: str, cards: Sequence[BoxCard], results: Sequence[TaskResult]) -> str:
    """The page as HTML.

    Args:
        name, data: of the model and the data.
        cards: some pictures, drawn at random.
        results: the trained head's first, then what it is compared with.
    """
    return page_environment().get_template("detection.html.j2").render(
        name=name, data=data, cards=cards, results=results, sentence=sentence(results), rows=_rows(results)
    )  # fmt: skip


def sentence(results: Sequence[TaskResult]) -> str:
    """What was found, in one sentence."""
    first, *others = results
    said = f"The trained head finds boxes with an AP of {_in_words(first, 'AP')}"
    if "AP_rare" in first.metrics:
        said += f", and of {_in_words(first, 'AP_rare')} for names that it was never trained on"
    best = max(others, key=lambda result: result.metrics.get("AP", 0.0), default=None)
    if best is not None:
        said += f"; boxes cut out of heat maps, without training, {_in_words(best, 'AP')}"
    return f"{said}."


def _in_words(result: TaskResult, name: str) -> str:
    figure = result.figure(name)
    return f"{show(figure.value, figure.unit)} ({show(figure.low, figure.unit)} – {show(figure.high, figure.unit)})"


def _rows(results: Sequence[TaskResult]) -> list[tuple[str, list[Figure | None]]]:
    """Figure by figure, each result's."""
    names = list(dict.fromkeys(figure.name for result in results for figure in result.figures))
    return [(name, [result.figure(name) if name in result.metrics else None for result in results]) for name in names]
