"""What'sUp (Kamath et al., EMNLP 2023): where is one thing with respect to another?

The first caption option is the true one, officially and here; right if it scores strictly above all others (official: argmax, so a tie
goes to the true one).

* ``a``, ``b`` (controlled pictures): four prepositions, chance 25%. ``pair_accuracy``: both of left/right, or of on/under (A) or in front/behind
  (B), of the same two things, chance 1/16; ``set_accuracy``: all four, chance 1/256;
* ``coco_one``, ``coco_two``, ``gqa_one``, ``gqa_two``: two captions, chance 50%.

``macro`` is the mean of A, B and the means of COCO's and GQA's two parts, each as far as they are there (all four are needed). Files:
``controlled_images_dataset.json``, ``controlled_clevr_dataset.json``, ``coco_qa_one_obj.json``, ``coco_qa_two_obj.json``, ``vg_qa_one_obj.json``,
``vg_qa_two_obj.json`` and the pictures, https://github.com/amitakamath/whatsup_vlms (its README has the Google Drive folder); COCO's are
val2017's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wholegrain.evaluation.benchmarks.files import Folder, Row, field, read_json
from wholegrain.evaluation.benchmarks.items import Benchmark, Item, Picture, Tree

SOURCE = "https://github.com/amitakamath/whatsup_vlms (its README links the JSON files and pictures)"
FILES = {
    "controlled_images_dataset.json": "a", "controlled_clevr_dataset.json": "b", "coco_qa_one_obj.json": "coco_one",
    "coco_qa_two_obj.json": "coco_two", "vg_qa_one_obj.json": "gqa_one", "vg_qa_two_obj.json": "gqa_two",
}  # fmt: skip
MACRO: Tree = ("a", "b", ("coco_one", "coco_two"), ("gqa_one", "gqa_two"))


def whatsup(folder: Path | str, images: tuple[Path, ...] = ()) -> Benchmark:
    """Reads those of the six sets that are in the folder."""
    place = Folder(folder, SOURCE, images)
    files, notes = place.several(FILES)
    pairs = (
        p for name, path in files.items() for p in (_controlled if FILES[name] in "ab" else _asked)(place, path, FILES[name])
    )
    kept, lost = place.kept(pairs)
    protocol = (
        "the true caption must score strictly above the other three (a, b) or one (coco, gqa); pairs and sets: all of them right"
    )
    return Benchmark("whatsup", kept, protocol, {"macro": MACRO}, micro=False, notes=(*notes, *lost))


def _controlled(place: Folder, path: Path, group: str) -> Iterator[tuple[str, Item | None]]:
    for number, row in enumerate(read_json(path, list[Row])):
        name = field(row, path, "image_path")
        at = place.picture(name.removeprefix("data/"))
        true, *false = field(row, path, "caption_options")
        # OBJECT_PREPOSITION_…_OTHER.jpeg; the two things name the set, the preposition's axis the pair
        stem = name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
        words = stem.split("_")
        things = f"{words[0]}|{words[-1]}"
        axis = "sideways" if words[1] in ("left", "right") else "other"
        together = {"pair": f"{things}|{axis}", "set": things}
        yield name, at and Item(str(number), group, (Picture(at),), (true,), tuple(false), together=together)


def _asked(place: Folder, path: Path, group: str) -> Iterator[tuple[str, Item | None]]:
    for number, (image, true, *false) in enumerate(read_json(path, list[list[Any]])):
        name = f"{str(image).zfill(12)}.jpg" if group.startswith("coco") else f"{image}.jpg"
        at = place.picture(name)
        yield name, at and Item(str(number), group, (Picture(at),), (true,), tuple(false))
