"""Pictures with id masks and boxes, read from a folder in the layouts that data sets come in.

===================  ======================================================================================================
``images``/``masks``  any nesting; ``a/b.jpg`` belongs to ``a/b.png``; a mask's values are class ids
``images``/``annotations``  ADE20K (SceneParsing): ids 1 to 150, 0 is unlabelled; ``objectInfo150.txt`` has the names
``JPEGImages``/``SegmentationClass``  Pascal VOC: 0 is background, 255 unlabelled; names are built in
``JPEGImages``/``SegmentationClassContext``  Pascal Context: 0 is background; take the list context59 or context60
``leftImg8bit``/``gtFine``  Cityscapes, ``…_labelTrainIds.png``: 255 is unlabelled; names are built in
``classes.json``     id -> name, or id -> {"name", "plain", "isthing"}; ``plain`` is used in prompts
``boxes.json``       path -> {"objects": [{"class", "box": [x0, y0, x1, y1]}]}
``instances*.json``  COCO's: images, annotations with bbox, categories
===================  ======================================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, Protocol, TypedDict

import numpy as np

from wholegrain.data.pictures import MOST_BYTES, BrokenPictureError, open_picture, read_rgb
from wholegrain.errors import UserError
from wholegrain.files import read_bytes, read_json, read_text

_MEND = "correct it, or get it again"
PLACES = (
    ("images", "masks"), ("images", "annotations"), ("JPEGImages", "SegmentationClass"), ("JPEGImages", "SegmentationClassContext"),
    ("leftImg8bit", "gtFine"),
)  # fmt: skip
VOC = "aeroplane bicycle bird boat bottle bus car cat chair cow table dog horse motorbike person potted-plant sheep sofa train tv-monitor"
CITYSCAPES = (
    "road sidewalk building wall fence pole traffic-light traffic-sign vegetation terrain sky person rider car truck bus train motorcycle "
    "bicycle"
)
_PICTURES = (".jpg", ".jpeg", ".png", ".webp")
_ENDINGS = ("_leftImg8bit", "_gtFine_labelTrainIds", "_labelTrainIds", "_instanceTrainIds")


@dataclass(frozen=True)
class ClassSet:
    """The classes that compete.

    Attributes:
        names: in the order of the scores.
        words: for each class the names to put into prompts; of several the best counts.
        ids: the value of each class in the masks.
        things: whether a class is countable; all, where nothing is known.
        background: the id of pixels that are none of the classes, or ``None``.
        ignore: ids that are not counted.
        background_words: words that compete for the background, beside the threshold.
    """

    names: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]
    ids: tuple[int, ...]
    things: tuple[bool, ...]
    background: int | None = None
    ignore: frozenset[int] = frozenset({255})
    background_words: tuple[str, ...] = ()


class Masked(Protocol):
    """A picture and the class id of each of its pixels."""

    @property
    def name(self) -> str: ...
    def pixels(self) -> np.ndarray:
        """uint8 RGB ``[H, W, 3]``."""
        ...

    def labels(self) -> np.ndarray:
        """int64 ``[H, W]`` class ids."""
        ...


@dataclass(frozen=True)
class Segmented:
    """A picture and its mask, as files."""

    name: str
    picture: Path
    mask: Path

    def pixels(self) -> np.ndarray:
        """uint8 RGB ``[H, W, 3]``."""
        return read_rgb(self.picture)

    def labels(self) -> np.ndarray:
        """int64 ``[H, W]`` class ids."""
        try:
            with open_picture(read_bytes(self.mask, "replace it or take it out", most=MOST_BYTES)) as image:
                ids = np.asarray(image)
        except BrokenPictureError as error:
            raise UserError(f"The mask {self.mask} cannot be decoded ({error}); replace it or take it out.") from None
        if ids.ndim != 2:
            raise UserError(f"The mask {self.mask} has {ids.shape[-1]} channels where one of class ids is expected; convert it.")
        return ids.astype(np.int64)


@dataclass(frozen=True)
class Boxed:
    """A picture with boxes: x0, y0, x1, y1 in its pixels, and their class names."""

    name: str
    picture: Path
    boxes: tuple[tuple[float, float, float, float], ...]
    classes: tuple[str, ...]


def segmented(folder: Path, ending: str = "") -> list[Segmented]:
    """All pictures that have a mask, sorted by name.

    Args:
        ending: of the masks' names; needed where a picture has several, as in COCO-Stuff's folder.

    Raises:
        UserError: when the folder has none of the layouts, or no picture has a mask.
    """
    for pictures, masks in PLACES:
        if not ((folder / pictures).is_dir() and (folder / masks).is_dir()):
            continue
        by_name = {_name(path, folder / masks): path for path in sorted((folder / masks).rglob(f"*{ending}.png"))}
        found = {
            _name(path, folder / pictures): path
            for path in sorted((folder / pictures).rglob("*"))
            if path.suffix.lower() in _PICTURES
        }
        shared = [Segmented(name, found[name], by_name[name]) for name in found if name in by_name]
        if shared:
            return shared
    wanted = ", ".join(f"{a}/ and {b}/" for a, b in PLACES)
    raise UserError(f"{folder} holds no pictures with masks; it should have {wanted}, with files of the same names.")


def _name(path: Path, folder: Path) -> str:
    name = str(path.relative_to(folder).with_suffix(""))
    for ending in _ENDINGS:
        name = name.removesuffix(ending)
    return name


def class_set(folder: Path, *, present: Sequence[int] | None = None, known: ClassSet | None = None) -> ClassSet:
    """The classes of a folder: from ``classes.json``, ``objectInfo150.txt``, or those that the layout implies; ``known`` goes before all.

    Args:
        present: only these ids, for a part of a data set in which not every class occurs.

    Raises:
        UserError: when no names are found.
    """
    if known is not None:
        made = known
    elif (folder / "classes.json").is_file():
        made = _from_json(folder / "classes.json")
    elif (folder / "objectInfo150.txt").is_file():
        made = _from_ade(folder / "objectInfo150.txt")
    elif (folder / "SegmentationClass").is_dir():
        names = tuple(name.replace("-", " ") for name in VOC.split())
        made = ClassSet(names, tuple((n,) for n in names), tuple(range(1, 21)), (True,) * 20, background=0)
    elif (folder / "gtFine").is_dir():
        names = tuple(name.replace("-", " ") for name in CITYSCAPES.split())
        made = ClassSet(names, tuple((n,) for n in names), tuple(range(19)), (False,) * 11 + (True,) * 8)
    else:
        raise UserError(
            f'{folder} has no classes.json; write one: {{"1": "person", "2": "dog"}}, the mask\'s ids and their names.'
        )
    if present is None:
        return made
    keep = [n for n, number in enumerate(made.ids) if number in set(present)]
    parts = ([getattr(made, field)[n] for n in keep] for field in ("names", "words", "ids", "things"))
    names, words, ids, things = map(tuple, parts)
    return ClassSet(names, words, ids, things, made.background, made.ignore, made.background_words)


class _Class(TypedDict):
    """A class in ``classes.json``."""

    name: str
    plain: NotRequired[str | list[str] | None]
    isthing: NotRequired[bool | int | None]


def _from_json(path: Path) -> ClassSet:
    rows = read_json(path, dict[str, str | _Class], _MEND)
    odd = next((number for number in rows if not (number.isascii() and number.isdecimal() and int(number[:9]) < 2**16)), None)
    if odd is not None:
        raise UserError(f"{path} has the key {odd[:40]!r}, which is no value of a mask; {_MEND}.")
    found = {int(number): row if isinstance(row, dict) else _Class(name=row) for number, row in rows.items()}
    kept = {
        number: row
        for number, row in sorted(found.items())
        if row["name"] not in ("unlabeled", "unlabelled", "void", "background")
    }
    background = next((number for number, row in found.items() if row["name"] == "background"), None)
    words = tuple(_words(row.get("plain") or row["name"]) for row in kept.values())
    ignored = frozenset({255}) | frozenset(set(found) - set(kept) - {background})
    things = tuple(bool(row.get("isthing", True)) for row in kept.values())
    return ClassSet(tuple(row["name"] for row in kept.values()), words, tuple(kept), things, background, ignored)


def _from_ade(path: Path) -> ClassSet:
    rows = [line.split("\t") for line in read_text(path, _MEND).splitlines() if line[:1].isdigit()]
    if not rows or not all(row[0].strip().isdecimal() and row[-1].strip() for row in rows):
        raise UserError(f"{path} has a line that does not begin with a number and end with names; {_MEND}.")
    names = tuple(row[-1].split(",")[0].strip() for row in rows)
    return ClassSet(
        names,
        tuple(_words(row[-1]) for row in rows),
        tuple(int(row[0]) for row in rows),
        (True,) * len(rows),
        None,
        frozenset({0, 255}),
    )


def _words(value: object) -> tuple[str, ...]:
    words = value if isinstance(value, list) else str(value).split(",")
    return tuple(word.strip() for word in words if word.strip())


Four = tuple[float, float, float, float]


_Object = TypedDict("_Object", {"class": str, "box": Four})


class _Picture(TypedDict):
    """A picture in ``boxes.json``."""

    objects: list[_Object]


class _Annotation(TypedDict):
    image_id: int
    category_id: int
    bbox: Four
    iscrowd: NotRequired[int]


class _Image(TypedDict):
    id: int
    file_name: str


class _Category(TypedDict):
    id: int
    name: str


class _Instances(TypedDict):
    """COCO's file."""

    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def boxed(folder: Path) -> list[Boxed]:
    """All pictures with boxes, from ``boxes.json`` or COCO's ``instances*.json``.

    Raises:
        UserError: when there is neither.
    """
    if (folder / "boxes.json").is_file():
        rows = read_json(folder / "boxes.json", dict[str, _Picture], _MEND)
        return [
            Boxed(name, folder / name, tuple(o["box"] for o in row["objects"]), tuple(o["class"] for o in row["objects"]))
            for name, row in sorted(rows.items())
            if row["objects"]
        ]
    files = sorted([*folder.glob("instances*.json"), *folder.glob("annotations/instances*.json")])
    if not files:
        raise UserError(
            f"{folder} has neither boxes.json nor COCO's instances*.json (cocodataset.org, annotations_trainval2017.zip)."
        )
    return _from_coco(files[0], folder)


def _from_coco(path: Path, folder: Path) -> list[Boxed]:
    rows = read_json(path, _Instances, _MEND, most=2**32)
    names = {row["id"]: row["name"] for row in rows["categories"]}
    found: dict[int, list[tuple[tuple[float, float, float, float], str]]] = {}
    for row in rows["annotations"]:
        if not row.get("iscrowd"):
            x, y, width, height = row["bbox"]
            if row["category_id"] not in names:
                raise UserError(f"{path} has an annotation of the category {row['category_id']}, which it does not name; {_MEND}.")
            found.setdefault(row["image_id"], []).append(((x, y, x + width, y + height), names[row["category_id"]]))
    places = {path.name: path for path in folder.rglob("*.jpg")}
    made = []
    for row in sorted(rows["images"], key=lambda row: row["file_name"]):
        here, place = found.get(row["id"], []), places.get(Path(row["file_name"]).name)
        if here and place is not None:
            made.append(Boxed(row["file_name"], place, tuple(box for box, _ in here), tuple(name for _, name in here)))
    if not made:
        raise UserError(f"No picture that {path} names lies below {folder}; put the images there.")
    return made
