"""Benchmarks of two pictures and two captions, each caption true of exactly one: Winoground, ColorSwap, EqBen, COLA.

With ``s_ij`` the score of picture i and caption j: *text* ``s00 > s01 and s11 > s10``, *image* ``s00 > s10 and s11 > s01``, *group* both; all
strict, as in the official codes. Chance 25%, 25%, 16.7%. A model blind to pictures scores 0 on text, one blind to captions 0 on image.
GroupMatch (``s00 + s11 > s01 + s10``, chance 50%) is another figure and never to be mixed with these.

* **Winoground** (Thrush et al., CVPR 2022): 400 items, groups by ``collapsed_tag``. ``examples.jsonl`` and ``images/ex_0_img_0.png``, … of
  https://huggingface.co/datasets/facebook/winoground (folder ``data``; it asks for a login).
* **ColorSwap** (Burapacheep et al., 2024): the same words, colours exchanged; ``test.json`` (300 items) and ``images`` of
  https://github.com/Top34051/colorswap.
* **EqBen** (Wang et al., ICCV 2023): pairs of frames; every JSON file of the folder that holds objects with ``image0``, ``image1``, ``caption0``
  and ``caption1`` (lists of captions count by their first, as officially) is a group, ``mean`` their average; frames kept as ``.npy``
  (YouCook2) are left out. https://github.com/Wangt-CN/EqBen. The annotation with randomised order is not of this form.
* **COLA**, multi-object (Ray et al., NeurIPS 2023): 210 items ``[address 1, caption 1, address 2, caption 2]``; the official score is the
  *image* score alone. ``COLA_multiobjects_matching_benchmark.json`` of https://github.com/arijitray1993/COLA; pictures by Visual Genome id.
  Its single objects are :mod:`~wholegrain.evaluation.benchmarks.cola_single_object`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from wholegrain.evaluation.benchmarks.files import Folder, Row, field, read_json, read_rows
from wholegrain.evaluation.benchmarks.items import Benchmark, Item, Picture

SCORES = "text: each picture picks its caption; image: each caption picks its picture; group: both"


def winoground(folder: Path | str, images: tuple[Path, ...] = ()) -> Benchmark:
    """Reads Winoground."""
    place = Folder(
        folder, "https://huggingface.co/datasets/facebook/winoground (data/examples.jsonl and data/images.zip)", images
    )
    path = place.need("examples.jsonl")
    found = []
    for number, row in enumerate(read_rows(path)):
        names = [str(field(row, path, f"image_{n}")) for n in (0, 1)]
        captions = (field(row, path, "caption_0"), field(row, path, "caption_1"))
        names = [name if name.lower().endswith((".png", ".jpg")) else f"{name}.png" for name in names]
        found.append(quad(place, str(row.get("id", number)), str(row.get("collapsed_tag", "all")), names, captions))
    kept, lost = place.kept(found)
    return Benchmark("winoground", kept, SCORES, notes=lost)


def colorswap(folder: Path | str, images: tuple[Path, ...] = ()) -> Benchmark:
    """Reads ColorSwap's test set."""
    place = Folder(folder, "https://github.com/Top34051/colorswap (data/test.json and data/images)", images)
    path = place.need("test.json")
    found = []
    for number, row in enumerate(read_rows(path)):
        names = [field(row, path, f"image_{n}") for n in (1, 2)]
        captions = (field(row, path, "caption_1"), field(row, path, "caption_2"))
        found.append(quad(place, str(row.get("id", number)), str(row.get("caption_source", "all")), names, captions))
    kept, lost = place.kept(found)
    return Benchmark("colorswap", kept, SCORES, notes=lost)


def eqben(folder: Path | str, images: tuple[Path, ...] = ()) -> Benchmark:
    """Reads EqBen."""
    place = Folder(folder, "https://github.com/Wangt-CN/EqBen (the annotation in Winoground's form and the image data)", images)
    found = []
    for path in sorted(place.path.glob("*.json")):
        if path.name == "images.json":
            continue
        for number, row in enumerate(_frames(read_json(path, object))):
            names = [str(row[f"image{n}"]) for n in (0, 1)]
            captions = tuple(c[0] if isinstance(c, list) else c for c in (row["caption0"], row["caption1"]))
            found.append(quad(place, str(number), path.stem, names, captions))
    if not found:
        place.need("annotation.json")  # says where to get one
    kept, lost = place.kept(found)
    groups = tuple(dict.fromkeys(item.group for item in kept))
    return Benchmark("eqben", kept, SCORES, {"mean": groups} if len(groups) > 1 else {}, notes=lost)


def _frames(value: object) -> Iterator[Row]:
    """The items at any depth of a nested annotation."""
    if isinstance(value, dict) and {"image0", "image1", "caption0", "caption1"} <= set(value):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _frames(inner)


def cola(folder: Path | str, images: tuple[Path, ...] = ()) -> Benchmark:
    """Reads COLA's multi-object part."""
    place = Folder(
        folder,
        "https://github.com/arijitray1993/COLA (data/COLA_multiobjects_matching_benchmark.json; pictures by its addresses)",
        images,
    )
    rows = read_json(place.need("COLA_multiobjects_matching_benchmark.json"), list[tuple[str, str, str, str]])
    found = [
        quad(place, str(n), "multi_object", [one, two], (first, second)) for n, (one, first, two, second) in enumerate(rows)
    ]
    kept, lost = place.kept(found)
    protocol = f"{SCORES}; the benchmark's own figure is image_score"
    return Benchmark("cola", kept, protocol, published={"multi_object": 210}, notes=lost)


def quad(place: Folder, name: str, group: str, names: list[str], captions: tuple[str, ...]) -> tuple[str, Item | None]:
    """The item of two pictures and their captions, and the picture that is missing if one is."""
    at = [place.picture(file) for file in names]
    missing = next((file for file, here in zip(names, at, strict=True) if here is None or here.suffix == ".npy"), None)
    return missing or names[0], None if missing else Item(name, group, tuple(Picture(here) for here in at if here), captions)


def counted(there: int, published: int, what: str = "the published benchmark") -> tuple[str, ...]:
    """A note where a benchmark without groups of known size has another number of items than the published one."""
    return () if there == published else (f"{what} has {published:,} items, not {there:,}, so do not compare with its figures",)
