"""COLA's single objects (Ray et al., NeurIPS 2023): which pictures show a "square white plate"?

320 classes of an object with attributes. As in the authors' code (``ColaSingleObjAP`` in ``scripts/eval.py`` of https://github.com/arijitray1993/COLA)
pictures are ranked for each class, among its hard ones alone (those that show the object, or one of the attributes); the figure is the mean over
classes of the average precision, that of torchmetrics, in which equal scores are one step. A class that no picture shows is left out, as
theirs; so is one that no *hard* picture shows, for which their mean is no number. Chance is the mean of 20 random orders.

Files: ``COLA_singleobjects_benchmark_GQA.json``, ``…_CLEVR.json`` and ``…_PACO.json`` in ``data`` of the repository: ``labels``, the classes, and
``data``, rows of ``[image, objects with attributes, label, hard list]``, PACO's without the second; the README says an object with these keys, the
code reads a list of the two, and both are read. Pictures: Visual Genome, CLEVR and COCO, by the name that the row gives.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wholegrain.errors import UserError
from wholegrain.evaluation.benchmarks.files import Folder, read_json
from wholegrain.evaluation.benchmarks.items import ClassRanking, Picture

SOURCE = "https://github.com/arijitray1993/COLA (data/COLA_singleobjects_benchmark_*.json; pictures of Visual Genome, CLEVR and COCO)"
PARTS = ("GQA", "CLEVR", "PACO")


def cola_single_object(folder: Path | str, images: tuple[Path, ...] = ()) -> list[ClassRanking]:
    """Reads those of the three parts that are in the folder, one task each."""
    place = Folder(folder, SOURCE, images)
    files, _ = place.several(f"COLA_singleobjects_benchmark_{part}.json" for part in PARTS)
    return [_part(place, path) for path in files.values()]


def _part(place: Folder, path: Path) -> ClassRanking:
    document = read_json(path, object)
    both = (document.get("labels"), document.get("data")) if isinstance(document, dict) else document
    labels, rows = both if isinstance(both, tuple | list) and len(both) == 2 else (None, None)
    if not isinstance(labels, list) or not isinstance(rows, list):
        raise UserError(f"{path} holds no labels and data; get it again.")
    classes = tuple(map(str, labels))
    found = [_row(place, path, number, row, len(classes)) for number, row in enumerate(rows)]
    kept, lost = place.kept(found, "pictures")
    name = f"cola_single_object_{path.stem.rsplit('_', 1)[-1].lower()}"
    protocol = "mean over classes of the average precision among the class's hard pictures"
    pictures, shown, counted = (tuple(column) for column in zip(*kept, strict=True))
    return ClassRanking(name, pictures, classes, shown, counted, protocol, lost)


def _row(
    place: Folder, path: Path, number: int, row: Any, classes: int
) -> tuple[str, tuple[Picture, tuple[bool, ...], tuple[bool, ...]] | None]:
    name, (shown, hard) = str(row[0]), row[-2:]
    for what, marks in (("labels", shown), ("hard marks", hard)):
        if len(marks) != classes or not all(mark in (0, 1) for mark in marks):
            raise UserError(f"{path}, row {number}: {what} are not a 0 or 1 for each of the {classes} classes; get it again.")
    at = place.picture(name)
    return name, at and (Picture(at), tuple(map(bool, shown)), tuple(map(bool, hard)))
