"""VALSE (Parcalabescu et al., ACL 2022): a caption against a foil that differs in one linguistic phenomenon.

Right if ``s(picture, caption) > s(picture, foil)``, strictly (the benchmark's pairwise accuracy ``acc_r``); chance 50%. Only items that at
least two of three annotators found valid (``mturk.caption >= 2``) count: 7,702 of 8,782. Papers average in three ways, which differ by up to
three points for one model, so all three stand here:

* ``mean_7``: seven phenomena, the three counting sets, the two action sets and the two coreference sets averaged within first;
* ``mean_9``: nine columns, counting averaged within;
* ``mean_11``: the eleven files alike, which is what most scripts compute.

Known defects: some scripts score under fp16, where near ties count as wrong. Files: https://github.com/Heidelberg-NLP/VALSE (folder
``data``); pictures of Visual7W, COCO 2014 and 2017, SWiG and VisDial val2018 by the addresses in its README, in any folders, found by name.
"""

from __future__ import annotations

from pathlib import Path

from wholegrain.evaluation.benchmarks.files import Folder, Row, field, read_json
from wholegrain.evaluation.benchmarks.items import Benchmark, Item, Picture, Tree

SOURCE = "https://github.com/Heidelberg-NLP/VALSE (data/*.json; its README says where the pictures are)"
VALID = {
    "existence": 505, "plurals": 851, "counting-hard": 868, "counting-small-quant": 900, "counting-adversarial": 691, "relations": 535,
    "action-replacement": 648, "actant-swap": 949, "coreference-standard": 708, "coreference-hard": 104, "foil-it": 943,
}  # fmt: skip
_COUNTING: Tree = ("counting-hard", "counting-small-quant", "counting-adversarial")
_ACTIONS: Tree = ("action-replacement", "actant-swap")
_COREFERENCE: Tree = ("coreference-standard", "coreference-hard")
AVERAGES: dict[str, Tree] = {
    "mean_7": ("existence", "plurals", _COUNTING, "relations", _ACTIONS, _COREFERENCE, "foil-it"),
    "mean_9": ("existence", "plurals", _COUNTING, "relations", *_ACTIONS, *_COREFERENCE, "foil-it"),
    "mean_11": tuple(VALID),
}


def valse(folder: Path | str, images: tuple[Path, ...] = ()) -> Benchmark:
    """Reads VALSE."""
    place = Folder(folder, SOURCE, images)
    files, notes = place.several(f"{name}.json" for name in VALID)

    def items(path: Path) -> list[tuple[str, Item | None]]:
        found = []
        for number, row in read_json(path, dict[str, Row]).items():
            if field(row, path, "mturk").get("caption", 0) < 2:
                continue
            name = field(row, path, "image_file")
            at = place.picture(name)
            true, false = field(row, path, "caption"), field(row, path, "foil")
            found.append((name, at and Item(number, path.stem, (Picture(at),), (true,), (false,))))
        return found

    kept, lost = place.kept(pair for path in files.values() for pair in items(path))
    protocol = "the caption must score strictly above the foil (acc_r), items that two of three annotators found valid"
    return Benchmark("valse", kept, protocol, AVERAGES, VALID, notes=(*notes, *lost))
