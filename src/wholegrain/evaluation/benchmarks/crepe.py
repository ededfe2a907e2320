"""CREPE (Ma et al., CVPR 2023): a caption of a part of a Visual Genome picture against hard negatives made from it.

Right if the caption scores strictly above all its negatives (R@1 of "one to many"; the official code ranks with the caption first, so ties
there depend on the sort; here a tie is wrong and is shown). Chance is 1 / (1 + negatives), by item. The picture is cut to ``x, y, width,
height`` first.

* *productivity*: ``atom``, ``swap``, ``negate``, each at complexities 4 to 12: ``TYPE/prod_vg_hard_negs_TYPE_complexity_N.csv``, column
  ``hard_negs``. ``productivity_TYPE`` is the mean over the complexities;
* *systematicity*: ``syst_vg_hard_negs_SPLIT_in_TRAINING.csv`` with the columns ``valid_hard_negs_atom`` and ``valid_hard_negs_comp``; it is
  defined only for models trained on CC12M, YFCC15M or LAION-400M, whose name stands in the file's.

Files: the two archives in ``data`` of https://github.com/RAIVNLab/CREPE, unpacked; pictures: Visual Genome ``ID.jpg``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from wholegrain.errors import UserError
from wholegrain.evaluation.benchmarks.files import Folder, Row, field, read_rows
from wholegrain.evaluation.benchmarks.items import Benchmark, Item, Picture, Tree

SOURCE = "https://github.com/RAIVNLab/CREPE (data/*.zip, unpacked) and Visual Genome's pictures"
TYPES = ("atom", "swap", "negate")


def crepe(folder: Path | str, images: tuple[Path, ...] = ()) -> Benchmark:
    """Reads what there is of CREPE in the folder, at any depth."""
    place = Folder(folder, SOURCE, images)
    found: list[tuple[str, Item | None]] = []
    for path in sorted(place.path.rglob("*_vg_hard_negs_*.csv")):
        found += _items(place, path)
    if not found:
        raise UserError(f"{place.path} has no prod_vg_hard_negs_….csv or syst_vg_hard_negs_….csv; get them from {SOURCE}.")
    kept, lost = place.kept(found)
    parts = sorted({item.part for item in kept})
    averages: dict[str, Tree] = {}
    for kind in TYPES:
        mine = tuple(part for part in parts if part.startswith(f"productivity_{kind}:"))
        if mine:
            averages[f"productivity_{kind}_mean"] = mine
    protocol = "the caption of the cut-out must score strictly above all its hard negatives (R@1)"
    return Benchmark("crepe", kept, protocol, averages, micro=False, notes=lost)


def _items(place: Folder, path: Path) -> Iterator[tuple[str, Item | None]]:
    words = path.stem.split("_")
    for number, row in enumerate(read_rows(path)):
        name = f"{field(row, path, 'image_id')}.jpg"
        at = place.picture(name)
        x, y, w, h = (int(float(field(row, path, side))) for side in ("x", "y", "width", "height"))
        for group, part, column in _columns(words, row):
            false = tuple(str(text) for text in ast.literal_eval(row[column]) if str(text) != row["caption"])
            if false:
                picture = at and (Picture(at, (x, y, x + w, y + h)),)
                yield name, picture and Item(f"{path.stem}:{number}", group, picture, (field(row, path, "caption"),), false, part)


def _columns(words: list[str], row: Row) -> Iterator[tuple[str, str, str]]:
    """Group, part and column of the negatives in a row."""
    if words[0] == "prod":
        kind, complexity = words[4], words[-1]
        yield f"productivity_{kind}", f"productivity_{kind}:{complexity}", "hard_negs"
        return
    split = "_".join(words[4 : words.index("in")]) if "in" in words else words[4]
    for column in row:
        if column.startswith("valid_hard_negs_") and row[column]:
            group = f"systematicity_{column.removeprefix('valid_hard_negs_')}_{split}"
            yield group, group, column
