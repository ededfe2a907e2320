"""COCO-Counterfactuals (Le et al., NeurIPS 2023 datasets and benchmarks): pairs of made pictures whose captions differ in one noun.

``coco_counterfactuals`` asks a pair as Winoground does (text, image and group score; chance 25%, 25%, 16.7%), as later work on compositionality does.
``coco_counterfactuals_retrieval`` is the authors' own protocol (``coco-cfs-evaluation/CLIP_evaluation.py`` in
https://github.com/IntelLabs/multimodal_cognitive_ai): recall among all pictures and all captions, both ways. They count equal captions once, as true of
each picture that has them; here such a caption is true of each of them too, but asked once for each. The authors' tables are also of parts
(validated by people, or mixed with COCO) whose lists are not published with the data.

Files: ``data/examples.jsonl`` (``id``, ``image_0``, ``image_1``, ``caption_0``, ``caption_1``) and ``data/images.zip`` unpacked (``images/NAME.jpg``) of
https://huggingface.co/datasets/Intel/COCO-Counterfactuals.
"""

from __future__ import annotations

from pathlib import Path

from wholegrain.evaluation.benchmarks.files import Folder, field, read_rows
from wholegrain.evaluation.benchmarks.items import Benchmark, CaptionSet, Item, Picture
from wholegrain.evaluation.benchmarks.quads import SCORES, quad

SOURCE = "https://huggingface.co/datasets/Intel/COCO-Counterfactuals (data/examples.jsonl, and data/images.zip unpacked)"


def coco_counterfactuals(folder: Path | str, images: tuple[Path, ...] = ()) -> Benchmark:
    """Reads the pairs."""
    place, found = _pairs(folder, images)
    kept, lost = place.kept(found)
    return Benchmark("coco_counterfactuals", kept, SCORES, notes=lost)


def coco_counterfactuals_retrieval(folder: Path | str, images: tuple[Path, ...] = ()) -> CaptionSet:
    """Reads all pictures with their captions."""
    place, found = _pairs(folder, images)
    kept, lost = place.kept(found)
    if lost:
        lost = (*lost, "recall among fewer candidates is higher, so do not compare with published figures")
    rows: list[tuple[Picture, str]] = [pair for item in kept for pair in zip(item.pictures, item.true, strict=True)]
    protocol = "all pictures and captions of COCO-Counterfactuals, an equal caption true of each picture that has it"
    captions = tuple((caption,) for _, caption in rows)
    return CaptionSet("coco_counterfactuals_retrieval", tuple(picture for picture, _ in rows), captions, protocol, lost, shared=True)


def _pairs(folder: Path | str, images: tuple[Path, ...]) -> tuple[Folder, list[tuple[str, Item | None]]]:
    place = Folder(folder, SOURCE, images)
    path = place.need("examples.jsonl")
    found = []
    for row in read_rows(path):
        names = [f"images/{field(row, path, f'image_{n}')}.jpg" for n in (0, 1)]
        captions = (field(row, path, "caption_0"), field(row, path, "caption_1"))
        found.append(quad(place, str(field(row, path, "id")), "all", names, captions))
    return place, found
