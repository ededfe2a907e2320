"""FG-OVD (Bianchi et al., CVPR 2024): the description of an object in a box against the same with other attributes.

The benchmark is made for detectors, which it scores by mean average precision and by the rank of the true description. A two-tower model gives no
boxes, so here, as FG-CLIP does (``fgclip/eval/fgovd_eval.py`` of https://github.com/360CVGroup/FG-CLIP), the annotated box is given, and
the figure is the share of boxes whose own description scores strictly above all false ones; chance 1 / (1 + negatives). Two things differ
from FG-CLIP: the box is cut out of the picture, where they pool the picture's patches in it, and a tie is wrong. Neither figure compares with
the paper's.

Hard, medium and easy change one, two and three attributes, trivial takes other objects' descriptions; color, material, pattern and transparency
change one attribute of that kind. As in the authors' code (``evaluation/``) a description counts that has as many negatives as are asked for, and its
first so many: 10, but 7 for pattern and 2 for transparency, where most have no more. ``difficulty`` and ``attribute`` are plain means over four.

Files: ``1_attributes.json``, … ``transparency.json`` (COCO's form; an annotation has ``bbox``, ``category_id``, the description's, and
``neg_category_ids``) in ``benchmarks`` of https://github.com/lorebianchi98/FG-OVD; pictures: COCO 2017, ``val2017`` and ``train2017``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from wholegrain.errors import UserError
from wholegrain.evaluation.benchmarks.files import Folder, read_json
from wholegrain.evaluation.benchmarks.items import Benchmark, Item, Picture

SOURCE = "https://github.com/lorebianchi98/FG-OVD (benchmarks/*.json; pictures of COCO 2017, val2017 and train2017)"
SETS = {
    "1_attributes": "hard", "2_attributes": "medium", "3_attributes": "easy", "shuffle_negatives": "trivial",
    "color": "color", "material": "material", "pattern": "pattern", "transparency": "transparency",
}  # fmt: skip
MOST = {"pattern": 7, "transparency": 2}
"""Negatives, where most descriptions have fewer than ten."""


class _Annotation(TypedDict):
    id: int
    image_id: int
    category_id: int
    neg_category_ids: list[int]
    bbox: list[float]


class _Named(TypedDict):
    id: int
    name: str


class _Image(TypedDict):
    id: int
    file_name: str


class _Coco(TypedDict):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Named]


def fg_ovd(folder: Path | str, images: tuple[Path, ...] = (), *, negatives: int = 10) -> Benchmark:
    """Reads those of the eight sets that are in the folder.

    Args:
        negatives: how many false descriptions compete, 1 to 10; 7 of pattern and 2 of transparency at most.
    """
    if not 1 <= negatives <= 10:
        raise UserError(f"negatives = {negatives} of fg_ovd is out of range; use 1 to 10.")
    place = Folder(folder, SOURCE, images)
    files, notes = place.several(f"{name}.json" for name in SETS)
    found = (pair for path in files.values() for pair in _items(place, path, min(negatives, MOST.get(path.stem, 10))))
    kept, lost = place.kept(found)
    names = tuple(SETS.values())
    protocol = f"the description of the cut-out box must score strictly above {negatives} false ones (7 of pattern, 2 of transparency at most)"
    averages = {"difficulty": names[:4], "attribute": names[4:]}
    return Benchmark("fg_ovd", kept, protocol, averages, micro=False, notes=(*notes, *lost))


def _items(place: Folder, path: Path, negatives: int) -> Iterator[tuple[str, Item | None]]:
    document = read_json(path, _Coco)
    files = {row["id"]: row["file_name"] for row in document["images"]}
    texts = {row["id"]: row["name"] for row in document["categories"]}
    for row in document["annotations"]:
        if len(row["neg_category_ids"]) < negatives:
            continue
        name = files[row["image_id"]]
        x, y, width, height = row["bbox"]
        box = (int(x), int(y), round(x + width), round(y + height))
        false = tuple(texts[number] for number in row["neg_category_ids"][:negatives])
        at = place.picture(name)
        yield name, at and Item(str(row["id"]), SETS[path.stem], (Picture(at, box),), (texts[row["category_id"]],), false)
