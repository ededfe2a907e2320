"""SPEC (Peng et al., CVPR 2024): made pictures, and captions, that differ in size, position, existence or count alone.

Two directions in each of six subsets, as in the authors' code (``spec/`` of https://github.com/wjpoom/SPEC): a picture picks its caption among
candidates (``i2t``), a caption its picture (``t2i``). Right if the true candidate scores highest (theirs: argmax, so the first of equals; here a tie is
wrong); chance is 1 / candidates, by item. ``i2t`` and ``t2i`` are the plain means over the six subsets that the code prints, ``mean`` is that of both.

Files: ``SUBSET/image2text.json`` and ``SUBSET/text2image.json`` (lists of ``query``, ``keys`` and ``label``, the place of the true key) with their
pictures, ``data.zip`` of https://huggingface.co/datasets/wjpoom/SPEC unpacked.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from wholegrain.errors import UserError
from wholegrain.evaluation.benchmarks.files import Folder, Row, field, read_json
from wholegrain.evaluation.benchmarks.items import Benchmark, Item, Picture

SOURCE = "https://huggingface.co/datasets/wjpoom/SPEC (data.zip, unpacked)"
SUBSETS = ("absolute_size", "relative_size", "absolute_spatial", "relative_spatial", "existence", "count")
FILES = {"i2t": "image2text.json", "t2i": "text2image.json"}


def spec(folder: Path | str, images: tuple[Path, ...] = ()) -> Benchmark:
    """Reads SPEC."""
    place = Folder(folder, SOURCE, images)
    files, notes = place.several(f"{subset}/{name}" for subset in SUBSETS for name in FILES.values())
    kept, lost = place.kept(pair for path in files.values() for pair in _items(place, path))
    means = {way: tuple(f"{way}_{subset}" for subset in SUBSETS) for way in FILES}
    averages = {**means, "mean": (means["i2t"], means["t2i"])}
    protocol = "the true one of the candidates must score strictly above all others; i2t: a picture's caption, t2i: a caption's picture"
    return Benchmark("spec", kept, protocol, averages, micro=False, notes=(*notes, *lost))


def _items(place: Folder, path: Path) -> Iterator[tuple[str, Item | None]]:
    subset, way = path.parent.name, "i2t" if path.name == FILES["i2t"] else "t2i"
    for number, row in enumerate(read_json(path, list[Row])):
        query, keys, label = (field(row, path, name) for name in ("query", "keys", "label"))
        if not isinstance(label, int) or not 0 <= label < len(keys):
            raise UserError(f"{path}, item {number}: the label {label!r} is no place among its {len(keys)} keys; get it again.")
        first, *others = keys[label], *keys[:label], *keys[label + 1 :]
        names = [query] if way == "i2t" else [first, *others]
        at = [place.picture(f"{path.parent.relative_to(place.path)}/{name}") for name in names]
        missing = next((name for name, here in zip(names, at, strict=True) if here is None), None)
        pictures = tuple(Picture(here) for here in at if here is not None)
        texts = ((first,), tuple(others)) if way == "i2t" else ((query,), ())
        yield f"{subset}/{missing or names[0]}", None if missing else Item(str(number), f"{way}_{subset}", pictures, *texts)
