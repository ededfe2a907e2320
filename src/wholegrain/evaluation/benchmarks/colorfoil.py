"""ColorFoil (Samin et al. 2024): a COCO caption that names a colour against the same with another colour.

There is no file of items: the authors' notebook (``zero_shot_evaluation.ipynb`` of https://github.com/samin9796/ColorFoil) makes them of
``captions_val2017.json``, and so does this reader, by its rules. Of each picture the first caption with a CSS colour name among its words (split at
blanks, small letters) counts; each such word becomes one of ten common colours, the one before it in their list where it is the same. The four
greyscale pictures that the notebook passes over are left out. Right if the caption scores strictly above the foil; chance 50%.

The notebook draws without a seed, so no two runs of it have the same foils; here the seed is the caption, so every run has. It replaces a colour
wherever its letters stand, in "covered", too ("red"): such foils are in the published figure, and easier, as they are broken words. They are the
group ``inside_words``; ``whole_words`` are the others.

Files: ``captions_val2017.json`` of http://images.cocodataset.org/annotations/annotations_trainval2017.zip; pictures: COCO val2017.
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import TypedDict

from PIL import ImageColor

from wholegrain.evaluation.benchmarks.captions import COCO
from wholegrain.evaluation.benchmarks.files import Folder, read_json
from wholegrain.evaluation.benchmarks.items import Benchmark, Item, Picture

COLOURS = ("blue", "black", "red", "pink", "yellow", "grey", "orange", "white", "green", "brown")
"""What a colour is replaced by."""
CSS3 = frozenset(ImageColor.colormap) - {"rebeccapurple"}
"""The 147 names that count as colours: those of ``webcolors.CSS3_NAMES_TO_HEX``."""
GREYSCALE = frozenset((550, 1164, 1752, 2236))
"""Places in the list of items of val2017 that the notebook passes over."""


class _Caption(TypedDict):
    image_id: int
    caption: str


class _Image(TypedDict):
    id: int
    file_name: str


class _Coco(TypedDict):
    annotations: list[_Caption]
    images: list[_Image]


def colorfoil(folder: Path | str, images: tuple[Path, ...] = ()) -> Benchmark:
    """Makes ColorFoil's items."""
    place = Folder(folder, COCO, images)
    path = place.find("captions_val2017.json", "annotations/captions_val2017.json") or place.need("captions_val2017.json")
    document = read_json(path, _Coco)
    captions: dict[int, list[str]] = {}
    for row in document["annotations"]:
        captions.setdefault(row["image_id"], []).append(row["caption"])
    found: list[tuple[str, Item | None]] = []
    coloured = ((row["file_name"], text) for row in document["images"] if (text := _first(captions.get(row["id"], []))) is not None)
    for number, (name, caption) in enumerate(coloured):
        if number not in GREYSCALE:
            at, group = place.picture(name), "inside_words" if _inside(caption) else "whole_words"
            found.append((name, at and Item(str(number), group, (Picture(at),), (caption,), (foil(caption),))))
    kept, lost = place.kept(found)
    protocol = "the caption must score strictly above the same with other colours, which are drawn by the caption"
    return Benchmark("colorfoil", kept, protocol, notes=lost)


def _first(captions: list[str]) -> str | None:
    return next((text for text in captions if any(word in CSS3 for word in text.split(" "))), None)


def _inside(caption: str) -> bool:
    """Whether a colour's letters also stand inside another word."""
    colours = {word for word in caption.split(" ") if word in CSS3}
    return any(len(re.findall(colour, caption)) > len(re.findall(rf"\b{colour}\b", caption)) for colour in colours)


def foil(caption: str) -> str:
    """The caption with other colours, by the notebook's rules.

    Example:
        >>> foil("a red bus") == foil("a red bus"), foil("a red bus") != "a red bus", foil("a bus")
        (True, True, 'a bus')
    """
    rng = random.Random(caption)
    for word in caption.split(" "):
        if word in CSS3:
            place = rng.randint(0, 9)
            caption = caption.replace(word, COLOURS[place - 1] if COLOURS[place] == word else COLOURS[place])
    return caption
