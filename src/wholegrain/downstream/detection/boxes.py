"""Pictures with boxes: what is in them, what is surely not, and what nobody knows; and which names training never sees."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from wholegrain.data.dataset import Dataset
from wholegrain.data.record import Record
from wholegrain.errors import UserError
from wholegrain.text.words.morphology import singular

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class BoxedPicture:
    """A picture and its boxes.

    Attributes:
        key: of the picture.
        size: width and height in pixels.
        boxes: x0, y0, x1, y1 in pixels, x1 and y1 exclusive.
        names: what is in each box.
        absent: names that are surely not in the picture; ``None``: all that have no box here and are not ``unsure`` (an exhaustive annotation).
        unsure: names of which there may be more than have boxes: a detection of one that meets no box is neither right nor wrong, and none is ever
            a negative in training (LVIS: ``not_exhaustive_category_ids``).
        crowd: for each box whether it is a group that nobody counted (COCO: ``iscrowd``); such are no targets, and what lies in them is not wrong.
    """

    key: str
    size: tuple[int, int]
    boxes: tuple[Box, ...]
    names: tuple[str, ...]
    absent: tuple[str, ...] | None = None
    unsure: tuple[str, ...] = ()
    crowd: tuple[bool, ...] = ()

    @property
    def is_crowd(self) -> tuple[bool, ...]:
        """``crowd``, one a box."""
        return self.crowd or (False,) * len(self.boxes)

    def judged(self, name: str) -> bool:
        """Whether a detection of this name can be right or wrong here."""
        return name in self.names or self.absent is None or name in self.absent


def vocabulary(*sets: Iterable[BoxedPicture]) -> tuple[str, ...]:
    """All names of boxes, sorted."""
    return tuple(sorted({name for pictures in sets for picture in pictures for name in picture.names}))


def prepared(dataset: Dataset, split: str, names: Sequence[str] = ()) -> list[BoxedPicture]:
    """The pictures of a split of prepared data that have regions, in the data's order; a region's phrase without its article is its name.

    Regions need not be exhaustive, and records do not say where they are not. Here a noun (the last word of a name) that the picture's captions
    say and no region has is *unsure*: in scenes, the things of which there are several. Of all other names ``names`` are taken to be annotated.

    Args:
        names: the vocabulary of which unsure names are stated; by default that of the split.

    Raises:
        UserError: no picture of the split has a region.
    """
    records = list(dataset.records(split))
    found = [_of_record(record) for record in records]
    if not any(picture.boxes for picture in found):
        raise UserError(f"No record of the split {split!r} of {dataset.folder} has a region; give data with boxes, such as wholegrain scenes makes.")
    by_noun: dict[str, list[str]] = {}
    for name in names or vocabulary(found):
        by_noun.setdefault(name.split()[-1], []).append(name)
    return [_with_unsure(picture, record, by_noun) for picture, record in zip(found, records, strict=True) if picture.boxes]


def _of_record(record: Record) -> BoxedPicture:
    names = tuple(plain_name(region.phrase) for region in record.regions)
    return BoxedPicture(record.key, record.size, tuple(_floats(region.box) for region in record.regions), names)


def _floats(box: Sequence[float]) -> Box:
    x0, y0, x1, y1 = map(float, box)
    return x0, y0, x1, y1


def plain_name(phrase: str) -> str:
    """A phrase as a name.

    Example:
        >>> plain_name("An orange  skull")
        'orange skull'
    """
    words = phrase.lower().split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ("a", "an", "the") else words) or phrase


def _with_unsure(picture: BoxedPicture, record: Record, by_noun: dict[str, list[str]]) -> BoxedPicture:
    said = {word.strip(".,;:!?").lower() for caption in record.captions for word in caption.text.split()}
    said |= {singular(word) for word in said}
    boxed = {name.split()[-1] for name in picture.names}
    unsure = [name for noun in sorted((said & by_noun.keys()) - boxed) for name in by_noun[noun]]
    return replace(picture, unsure=tuple(unsure)) if unsure else picture


def held_out(names: Sequence[str], share: float, seed: int) -> frozenset[str]:
    """Names that training is never to see: each by a lot that depends on the name and the seed alone, about ``share`` of those of two words or more
    (an attribute and a noun), whatever other names there are.

    Example:
        >>> held_out(["red cup", "cup", "blue hat"], 1.0, 0) == {"red cup", "blue hat"}
        True
    """
    return frozenset(name for name in names if len(name.split()) > 1 and _lot(f"{seed} {name}") < share)


def _lot(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def without(pictures: Sequence[BoxedPicture], names: frozenset[str]) -> list[BoxedPicture]:
    """Pictures for training: boxes of these names and of crowds are gone, and their names are unsure; a picture without any box stays."""
    found = []
    for picture in pictures:
        gone = {name for name, crowd in zip(picture.names, picture.is_crowd, strict=True) if crowd or name in names}
        kept = [n for n, (name, crowd) in enumerate(zip(picture.names, picture.is_crowd, strict=True)) if not crowd and name not in names]
        boxes, left = tuple(picture.boxes[n] for n in kept), tuple(picture.names[n] for n in kept)
        unsure = tuple(dict.fromkeys((*picture.unsure, *sorted(gone))))
        found.append(replace(picture, boxes=boxes, names=left, unsure=unsure, crowd=()))
    return found


def unit_boxes(picture: BoxedPicture) -> np.ndarray:
    """float32 ``[M, 4]``: centre x and y, width and height, in shares of the picture's sides."""
    corners = np.asarray(picture.boxes, dtype=np.float64).reshape(-1, 4) / np.tile(picture.size, 2)
    return np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1).astype(np.float32)
