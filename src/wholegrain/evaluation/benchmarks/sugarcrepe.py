"""SugarCrepe (Hsieh et al., NeurIPS 2023) and SugarCrepe++ (Dumpala et al., NeurIPS 2024).

**SugarCrepe.** One picture of COCO val2017, its caption and a false one. Right if ``s(picture, caption) > s(picture, false)``, strictly, as
the official code counts; no prompt template. Chance 50%. Seven subsets; ``macro_7`` is their plain mean, ``replace``, ``swap`` and ``add`` the
means that the paper's tables print. The figure over all items at once is not one that papers quote. Known defects: in the ``add`` subsets
the shorter caption is true in 99% of the items (see ``blind_shorter``); the balance was made for two text models and holds for no other.
``swap_obj`` lacks index 246 of the official list. Files: ``add_att.json`` … ``swap_obj.json`` of https://github.com/RAIVNLab/sugar-crepe
(folder ``data``), pictures: COCO val2017, http://images.cocodataset.org/zips/val2017.zip.

**SugarCrepe++.** Two true captions of different wording and a false one. ``ITT``: right if both true ones score above the false one; ``TOT``,
without the picture: right if the two true ones are nearer to each other than either is to the false one. Chance 1/3 for each. Five subsets,
``itt`` and ``tot`` are their plain means. Files: ``replace_att.json`` … of https://github.com/Sri-Harsha/scpp (folder ``data``), same pictures.
"""

from __future__ import annotations

from pathlib import Path

from wholegrain.evaluation.benchmarks.files import Folder, Row, field, read_json, read_rows
from wholegrain.evaluation.benchmarks.items import Benchmark, Item, Picture

SOURCE = "https://github.com/RAIVNLab/sugar-crepe (data/*.json); pictures: http://images.cocodataset.org/zips/val2017.zip"
SOURCE_PLUS = "https://github.com/Sri-Harsha/scpp (data/*.json); pictures: http://images.cocodataset.org/zips/val2017.zip"
PUBLISHED = {
    "replace_obj": 1652, "replace_att": 788, "replace_rel": 1406, "swap_obj": 245, "swap_att": 666, "add_obj": 2062, "add_att": 692,
}  # fmt: skip
MACRO_7 = tuple(PUBLISHED)
MEANS = {"replace": MACRO_7[:3], "swap": MACRO_7[3:5], "add": MACRO_7[5:]}


def sugarcrepe(folder: Path | str, images: tuple[Path, ...] = ()) -> Benchmark:
    """Reads SugarCrepe."""
    place = Folder(folder, SOURCE, images)
    files, notes = place.several(f"{name}.json" for name in PUBLISHED)

    def items(subset: str, path: Path) -> list[tuple[str, Item | None]]:
        found = []
        for number, row in read_json(path, dict[str, Row]).items():
            name = field(row, path, "filename")
            at = place.picture(name)
            true, false = field(row, path, "caption"), field(row, path, "negative_caption")
            found.append((name, at and Item(number, subset, (Picture(at),), (true,), (false,))))
        return found

    kept, lost = place.kept(pair for name, path in files.items() for pair in items(path.stem, path))
    averages = {"macro_7": MACRO_7, **MEANS}
    protocol = "the caption must score strictly above the false one; macro_7 is the mean of the seven subsets"
    return Benchmark("sugarcrepe", kept, protocol, averages, PUBLISHED, notes=(*notes, *lost))


def sugarcrepe_plus(folder: Path | str, images: tuple[Path, ...] = ()) -> Benchmark:
    """Reads SugarCrepe++."""
    place = Folder(folder, SOURCE_PLUS, images)
    subsets = [name for name in MACRO_7 if not name.startswith("add")]
    files, notes = place.several(f"{name}.json" for name in subsets)

    def items(path: Path) -> list[tuple[str, tuple[Item, Item] | None]]:
        found = []
        for number, row in enumerate(read_rows(path)):
            name = field(row, path, "filename")
            at = place.picture(name)
            found.append((name, at and _both(str(row.get("id", number)), path, at, row)))
        return found

    kept, lost = place.kept(pair for path in files.values() for pair in items(path))
    averages = {task: tuple(f"{task}_{subset}" for subset in subsets) for task in ("itt", "tot")}
    protocol = "itt: both true wordings must score above the false text; tot: without the picture, the true wordings must be nearest to each other"
    pairs = tuple(item for both in kept for item in both)
    return Benchmark("sugarcrepe_plus", pairs, protocol, averages, micro=False, notes=(*notes, *lost))


def _both(number: str, path: Path, at: Path, row: Row) -> tuple[Item, Item]:
    true = (field(row, path, "caption"), field(row, path, "caption2"))
    false = (field(row, path, "negative_caption"),)
    return Item(number, f"itt_{path.stem}", (Picture(at),), true, false), Item(number, f"tot_{path.stem}", (), true, false)
