"""Boxes in COCO's and LVIS's JSON: ``images``, ``annotations`` with ``bbox``, ``categories``.

LVIS's ``neg_category_ids`` and ``not_exhaustive_category_ids`` of a picture, and ``frequency`` of a category, are read where they are there; without
the former two a picture is taken to be annotated exhaustively, as COCO's are. A category's name is its ``name``, with spaces for underscores. Boxes are
cut at the picture's edges; those without an area (COCO has a few) are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np

from wholegrain.data.pictures import read_rgb
from wholegrain.downstream.detection.boxes import Box, BoxedPicture
from wholegrain.errors import UserError
from wholegrain.files import digest, read_json, sha256, shown

MEND = "correct it, or get the annotations again"
MOST_BYTES = 2**31
"""LVIS's training annotations have 1.1 GB."""


class _Image(TypedDict):
    id: int
    width: int
    height: int
    file_name: NotRequired[str]
    coco_url: NotRequired[str]
    neg_category_ids: NotRequired[list[int]]
    not_exhaustive_category_ids: NotRequired[list[int]]


class _Annotation(TypedDict):
    image_id: int
    category_id: int
    bbox: list[float]
    iscrowd: NotRequired[int]


class _Category(TypedDict):
    id: int
    name: str
    frequency: NotRequired[str]


class _Document(TypedDict):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


@dataclass(frozen=True)
class Annotations:
    """What a file says.

    Attributes:
        pictures: sorted by key, which is the picture's file below the folder; those without any box are kept.
        names: of all categories, in the file's order.
        rare: names that the file calls rare (LVIS's frequency ``r``); ``None`` where it states no frequencies.
    """

    pictures: tuple[BoxedPicture, ...]
    names: tuple[str, ...]
    rare: frozenset[str] | None


class FilePictures:
    """Pictures of a folder by their path in it, as annotated in some files.

    Args:
        folder: of the pictures.
        annotations: the files.
        keys: the pictures' names.

    Attributes:
        content_hash: of the files of annotations, and of the pictures' names and sizes in bytes.
    """

    def __init__(self, folder: Path, annotations: Sequence[Path], keys: Iterable[str]) -> None:
        self.folder = folder
        sizes = digest([[key, (folder / key).stat().st_size] for key in sorted(set(keys))])
        self.content_hash = " ".join([*(sha256(path, MEND) for path in annotations), sizes])

    def pixels(self, key: str) -> np.ndarray:
        """uint8 RGB ``[H, W, 3]``. Raises :class:`UserError` for a picture that is not there or cannot be read."""
        return read_rgb(self.folder / key)


def read_annotations(path: Path, folder: Path) -> Annotations:
    """Reads a file of annotations of pictures in a folder.

    Raises:
        UserError: names the file, the record and the field that is wrong; or a picture that is not in the folder.
    """
    document = read_json(path, _Document, MEND, most=MOST_BYTES)
    names = _names(path, document["categories"])
    images = {image["id"]: image for image in document["images"]}
    if len(images) < len(document["images"]):
        raise UserError(f"{shown(path)} has two images of one id; {MEND}.")
    boxes: dict[int, list[tuple[Box, str, bool]]] = {number: [] for number in images}
    for n, row in enumerate(document["annotations"]):
        where = f"annotation {n} of {shown(path)}"
        if row["image_id"] not in images:
            raise UserError(f"The image_id of {where} is {row['image_id']}, and there is no such image; {MEND}.")
        if row["category_id"] not in names:
            raise UserError(f"The category_id of {where} is {row['category_id']}, and there is no such category; {MEND}.")
        box = _box(row["bbox"], images[row["image_id"]], where)
        if box is not None:
            boxes[row["image_id"]].append((box, names[row["category_id"]], bool(row.get("iscrowd", 0))))
    found = [_picture(path, image, boxes[image["id"]], names) for image in document["images"]]
    missing = next((picture.key for picture in found if not (folder / picture.key).is_file()), None)
    if missing is not None:
        raise UserError(f"{shown(folder / missing)} is not there, though {shown(path)} names it; give the folder that its names begin in.")
    frequencies = {names[category["id"]]: category.get("frequency") for category in document["categories"]}
    rare = None if not any(frequencies.values()) else frozenset(name for name, how in frequencies.items() if how == "r")
    return Annotations(tuple(sorted(found, key=lambda picture: picture.key)), tuple(names.values()), rare)


def _names(path: Path, categories: Sequence[_Category]) -> dict[int, str]:
    names = {category["id"]: " ".join(category["name"].replace("_", " ").split()) for category in categories}
    taken: set[str] = set()
    for number, name in names.items():
        if not name or name in taken:
            raise UserError(f"The name of category {number} in {shown(path)} is {name!r}, which is {'empty' if not name else 'taken'}; {MEND}.")
        taken.add(name)
    if len(names) < len(categories):
        raise UserError(f"{shown(path)} has two categories of one id; {MEND}.")
    return names


def _box(given: Sequence[float], image: _Image, where: str) -> Box | None:
    """x, y, width, height -> corners within the picture; ``None`` for a box without an area there."""
    if len(given) != 4 or not all(math.isfinite(x) for x in given):
        raise UserError(f"The bbox of {where} is {str(list(given))[:80]}, which is not x, y, width, height; {MEND}.")
    x, y, width, height = given
    if width < 0 or height < 0:
        raise UserError(f"The bbox of {where} has a width of {width:g} and a height of {height:g}; {MEND}.")
    x0, y0, x1, y1 = max(x, 0.0), max(y, 0.0), min(x + width, float(image["width"])), min(y + height, float(image["height"]))
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def _picture(path: Path, image: _Image, boxes: Sequence[tuple[Box, str, bool]], names: dict[int, str]) -> BoxedPicture:
    where = f"image {image['id']} of {shown(path)}"
    key = image.get("file_name") or "/".join(image.get("coco_url", "").split("/")[-2:])
    if not key or Path(key).is_absolute() or ".." in Path(key).parts or "\0" in key:
        raise UserError(f"The file_name of {where} is {key[:80]!r}, which is no file of a folder; {MEND}.")
    if image["width"] < 1 or image["height"] < 1:
        raise UserError(f"The size of {where} is {image['width']} x {image['height']}; {MEND}.")
    stated = {field: image.get(field) for field in ("neg_category_ids", "not_exhaustive_category_ids")}
    for field, ids in stated.items():
        odd = next((number for number in ids or () if number not in names), None)
        if odd is not None:
            raise UserError(f"The {field} of {where} have {odd}, and there is no such category; {MEND}.")
    absent, unsure = (None if ids is None else tuple(names[number] for number in ids) for ids in stated.values())
    crowd = tuple(crowd for _, _, crowd in boxes)
    corners, labels = tuple(box for box, _, _ in boxes), tuple(name for _, name, _ in boxes)
    return BoxedPicture(key, (image["width"], image["height"]), corners, labels, absent, unsure or (), crowd if any(crowd) else ())
