"""VL-CheckList (Zhao et al., EMNLP 2022 demo): a phrase against one with a wrong attribute, object or relation.

Right if ``s(picture, POS[0]) > s(picture, NEG[0])``, strictly (its ITC task); chance 50%. Only the first positive and negative text count, as
in the official code. Accuracy per type and source, mean over the sources of a type, then over types: ``attribute`` (5 types), ``object``
(location and size), ``relation`` (action, spatial), ``mean_9`` over the nine types, as CE-CLIP's table prints. A figure over all items would
follow the sizes of the sources and is not given. Known defects: the official code skips missing pictures without a word (here they are
counted) and its sample configuration takes the first 1,000 pairs of each file (``limit`` does that; all by default); negatives are random
words, so text alone does well. Files: https://github.com/om-ai-lab/VL-CheckList (folder ``data``, with its own folders), pictures under
``vg``, ``swig`` and ``hake`` as its DATASETS.md says.
"""

from __future__ import annotations

from pathlib import Path

from wholegrain.errors import UserError
from wholegrain.evaluation.benchmarks.files import Folder, read_json
from wholegrain.evaluation.benchmarks.items import Benchmark, Item, Picture, Tree

SOURCE = "https://github.com/om-ai-lab/VL-CheckList (data/; DATASETS.md says where the pictures of vg, swig and hake are)"
ATTRIBUTES = ("action", "color", "material", "size", "state")
COLUMNS = {
    **{f"attribute_{name}": "attribute" for name in ATTRIBUTES},
    "object_location": "object", "object_size": "object", "relation_action": "relation", "relation_spatial": "relation",
}  # fmt: skip
"""The nine types and where each belongs."""


def vl_checklist(folder: Path | str, images: tuple[Path, ...] = (), *, limit: int | None = None) -> Benchmark:
    """Reads VL-CheckList.

    Args:
        limit: only the first so many pairs of each file.
    """
    place = Folder(folder, SOURCE, images)
    root = place.path / "data" if (place.path / "data").is_dir() else place.path
    files = {path: where for path in sorted(root.rglob("*.json")) if (where := _where(path.relative_to(root).parts)) is not None}
    if not files:
        raise UserError(f"{root} has no Attribute, Object or Relation folder with JSON files; get them from {SOURCE}.")

    def items(path: Path, column: str, part: str, source: str) -> list[tuple[str, Item | None]]:
        found = []
        for number, (name, texts) in enumerate(read_json(path, list[tuple[str, dict[str, list[str]]]])[:limit]):
            at = place.picture(f"{source}/{name}") or place.picture(name)
            true, false = texts["POS"][0], texts["NEG"][0]
            found.append(
                (name, at and Item(f"{path.relative_to(root)}:{number}", column, (Picture(at),), (true,), (false,), part))
            )
        return found

    kept, lost = place.kept(pair for path, where in files.items() for pair in items(path, *where))
    averages, missing = _averages({item.part for item in kept})
    notes = (f"no items of {', '.join(missing)}, so the averages over them are left out",) if missing else ()
    protocol = "the first positive phrase must score strictly above the first negative one; means over sources, then over types"
    return Benchmark("vl_checklist", kept, protocol, averages, micro=False, notes=(*notes, *lost))


def _where(parts: tuple[str, ...]) -> tuple[str, str, str] | None:
    """Column, part and source of pictures, from a file's path below ``data``."""
    low = [part.lower().removesuffix(".json") for part in parts]
    source = next((s for s in ("swig", "hake", "vaw", "vg") if any(word == s or word.startswith(f"{s}_") for word in low)), None)
    if source is None:
        return None
    pictures = "vg" if source == "vaw" else source
    if low[0] == "attribute" and low[-1] in ATTRIBUTES:
        column = f"attribute_{low[-1]}"
    elif low[0] == "object" and low[1] in ("location", "size"):
        column = f"object_{low[1]}"
    elif low[0] == "relation":
        column = f"relation_{'spatial' if 'spatial' in low[-1] else 'action'}"
    else:
        return None
    # an object's part is one file (agent_center, …); elsewhere one file is one source
    return column, f"{column}:{low[-1] if column.startswith('object') else source}", pictures


def _averages(parts: set[str]) -> tuple[dict[str, Tree], list[str]]:
    trees: dict[str, Tree] = {}
    for column in COLUMNS:
        mine = tuple(sorted(part for part in parts if part.startswith(f"{column}:")))
        if mine:
            trees[column] = _by_level(mine) if column.startswith("object") else mine
    averages: dict[str, Tree] = dict(trees)
    for kind in ("attribute", "object", "relation"):
        columns = [column for column, own in COLUMNS.items() if own == kind]
        if all(column in trees for column in columns):
            averages[kind] = tuple(trees[column] for column in columns)
    missing = [column for column in COLUMNS if column not in trees]
    if not missing:
        averages["mean_9"] = tuple(trees[column] for column in COLUMNS)
    return averages, missing


def _by_level(parts: tuple[str, ...]) -> Tree:
    """Mean over the sources of each level (center, mid, margin; large, medium, small), then over the levels."""
    levels: dict[str, list[str]] = {}
    for part in parts:
        levels.setdefault(part.rsplit("_", 1)[-1], []).append(part)
    return tuple(tuple(level) for level in levels.values())
