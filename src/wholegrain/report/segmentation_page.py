"""The page of a segmentation: pictures with their true and found classes first, one sentence, then the figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from wholegrain.evaluation.result import Figure, TaskResult
from wholegrain.evaluation.show import show
from wholegrain.report.page import page_environment
from wholegrain.report.pictures import data_uri, seen_part

SIDE = 224
"""Pixels of a picture's longer side."""
_GROUND = (226, 224, 216)
_UNKNOWN = (255, 255, 255)
_OTHER = (90, 88, 84)
_COLOURS = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (213, 94, 0), (204, 121, 167), (86, 180, 233), (170, 155, 30), (117, 60, 160), (120, 72, 40),
    (20, 70, 60), (240, 120, 130), (110, 170, 60),
)  # fmt: skip
"""Okabe and Ito's, which the colour-blind can tell apart, then others for crowded pictures."""


@dataclass(frozen=True)
class NamedColour:
    """A class in a picture: its colour as #rrggbb, and whether it is there in truth, was found, or both."""

    name: str
    colour: str
    mark: str


@dataclass(frozen=True)
class SegmentationCard:
    """A picture and its class maps as ``data:`` URIs of one size, and the classes in them."""

    key: str
    picture: str
    true: str
    found: str
    wrong: float
    classes: Sequence[NamedColour]


def segmentation_card(
    key: str, pixels_HWC: np.ndarray, true_HW: np.ndarray, found_HW: np.ndarray, names: Sequence[str], ground: bool
) -> SegmentationCard:
    """Of one picture.

    Args:
        true_HW, found_HW: places in ``names``, -1 unknown.
        ground: the last name is the background, drawn in grey.
    """
    counted = true_HW >= 0
    wrong = float((found_HW != true_HW)[counted].mean()) if counted.any() else 0.0
    true, found = (set(np.unique(x[counted]).tolist()) for x in (true_HW, found_HW))
    size = {c: int((found_HW[counted] == c).sum() + (true_HW[counted] == c).sum()) for c in true | found}
    listed = sorted(size, key=lambda c: (c not in true, -size[c]))
    marks = {c: "both" if c in true & found else "missed" if c in true else "only found" for c in listed}
    drawn = [c for c in listed if c in true or size[c] > 0.01 * counted.sum()][: len(_COLOURS)]
    colours = _colours(drawn, len(names), ground)
    legend = [NamedColour(names[int(c)], f"#{colours[c].tobytes().hex()}", marks[c]) for c in drawn]
    pages = (pixels_HWC, colours[true_HW], colours[np.where(counted, found_HW, -1)])
    picture, *maps = (data_uri(seen_part(page, side=SIDE)) if n == 0 else _map_uri(page) for n, page in enumerate(pages))
    return SegmentationCard(key, picture, maps[0], maps[1], wrong, legend)


def _map_uri(colour_HW3: np.ndarray) -> str:
    """Class maps are never smoothed: a colour between two classes would be a third."""
    height, width = colour_HW3.shape[:2]
    factor = SIDE / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return data_uri(np.asarray(Image.fromarray(colour_HW3).resize(size, Image.Resampling.NEAREST)), quality=92)


def _colours(drawn: Sequence[int], count: int, ground: bool) -> np.ndarray:
    """uint8 ``[C + 1, 3]``: the classes of one picture as far apart as may be, others dark, the background grey, unknown (-1, the last) white."""
    table = np.full((count + 1, 3), _OTHER, dtype=np.uint8)
    for place, c in enumerate(c for c in drawn if not (ground and c == count - 1)):
        table[c] = _COLOURS[place]
    if ground:
        table[count - 1] = _GROUND
    table[-1] = _UNKNOWN
    return table


def segmentation_page(name: str, data: str, cards: Sequence[SegmentationCard], results: Sequence[TaskResult]) -> str:
    """The page as HTML.

    Args:
        name, data: of the model and the data.
        cards: some pictures, drawn at random.
        results: the linear head's first.
    """
    return page_environment().get_template("segmentation.html.j2").render(
        name=name, data=data, cards=cards, results=results, sentence=sentence(results), rows=_rows(results), classes=_classes(results)
    )  # fmt: skip


def sentence(results: Sequence[TaskResult]) -> str:
    """What was found, in one sentence."""
    found = {result.task: result for result in results}
    said = f"The linear head labels pixels with a mean IoU of {_in_words(found['segment'], 'miou')}"
    if "segment_names" in found:
        said += f", class names without training with {_in_words(found['segment_names'], 'miou')}"
    said += f"; of regions whose masks are given {_in_words(found['segment_regions'], 'acc1')} are named rightly by a trained layer"
    if "segment_regions_names" in found:
        said += f", {_in_words(found['segment_regions_names'], 'acc1')} by class names"
    return f"{said}."


def _in_words(result: TaskResult, name: str) -> str:
    figure = result.figure(name)
    return f"{show(figure.value, figure.unit)} ({show(figure.low, figure.unit)} – {show(figure.high, figure.unit)})"


Row = tuple[str, list[Figure | None]]


def _rows(results: Sequence[TaskResult]) -> list[Row]:
    """Figure by figure, each result's; classes stand in a table of their own."""
    return _chosen(results, lambda name: not name.endswith("/iou"))


def _classes(results: Sequence[TaskResult]) -> list[Row]:
    return _chosen([result for result in results if not result.task.startswith("segment_regions")], lambda name: name.endswith("/iou"))


def _chosen(results: Sequence[TaskResult], wanted: Callable[[str], bool]) -> list[Row]:
    names = [name for name in dict.fromkeys(figure.name for result in results for figure in result.figures) if wanted(name)]
    return [(name, [result.figure(name) if name in result.metrics else None for result in results]) for name in names]
