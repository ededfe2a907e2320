"""Retrieval sets of the field: pictures with all their captions, in the official files' order.

* ``coco_karpathy``: the test split of ``dataset_coco.json`` (Karpathy & Fei-Fei, CVPR 2015): 5,000 pictures of val2014, 25,010 captions. What
  CLIP_benchmark and most papers call COCO.
* ``coco_val2017``: ``captions_val2017.json``: another 5,000 pictures, 25,014 captions. What FLAIR, COSMOS, FG-CLIP and Long-CLIP call COCO
  (Long-CLIP cuts to five captions a picture; here all count). Figures of the two do not compare.
* ``flickr30k``, ``flickr8k``: the test split of ``dataset_flickr30k.json`` / ``dataset_flickr8k.json``: 1,000 pictures, 5,000 captions.
* long texts, one a picture: ``urban1k`` (``caption/N.txt``, its first line, and ``image/N.jpg``), ``sharegpt4v_1k`` and ``sharegpt4v_10k`` (the answers
  of the first 1,000 or 10,000 rows of ``share-captioner_coco_lcs_sam_1246k_1107.json``, line ends to spaces, as Long-CLIP and LoTLIP take them),
  ``docci`` (the test rows of ``docci_descriptions.jsonlines``). ``dci`` and ``iiw`` differ from paper to paper in which text fields are joined; write
  the join that you mean as a table for ``captions``.
* ``captions``: any table with ``image`` and ``caption`` columns, several rows a picture.

A caption counts as true of its own picture alone, as in the published figures (``--benchmark`` retrieval differs there from ``--data``, which
knows of equal captions). What share of the texts is cut at the model's context stands beside the figures: at 77 tokens most of the long
texts are, and the figure then is one of their beginnings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NotRequired, TypedDict

from wholegrain.errors import UserError
from wholegrain.evaluation.benchmarks.files import AGAIN, Folder, Row, field, read_json, read_rows
from wholegrain.evaluation.benchmarks.items import CaptionSet, Picture
from wholegrain.files import read_text

KARPATHY = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
COCO = "http://images.cocodataset.org/annotations/annotations_trainval2017.zip and http://images.cocodataset.org/zips/val2017.zip"
URBAN = "https://huggingface.co/datasets/BeichenZhang/Urban1k"
SHAREGPT4V = "https://huggingface.co/datasets/Lin-Chen/ShareGPT4V"
DOCCI = "https://google.github.io/docci/"
Reader = Callable[..., CaptionSet]


def _made(name: str, place: Folder, rows: Iterable[tuple[str, tuple[str, ...]]], protocol: str) -> CaptionSet:
    found = [(file, (at := place.picture(file)) and (Picture(at), texts)) for file, texts in rows]
    kept, lost = place.kept(found, "pictures")
    if lost:
        lost = (*lost, "recall among fewer candidates is higher, so do not compare with published figures")
    return CaptionSet(name, tuple(p for p, _ in kept), tuple(texts for _, texts in kept), protocol, lost)


def karpathy(name: str, split: str = "test") -> Reader:
    """A reader of ``dataset_NAME.json``."""

    def read(folder: Path | str, images: tuple[Path, ...] = ()) -> CaptionSet:
        place = Folder(folder, KARPATHY, images)
        path = place.need(f"dataset_{name}.json")
        rows = [row for row in read_json(path, _Karpathy)["images"] if row["split"] == split]
        pairs = ((_file(row), tuple(s["raw"].strip() for s in row["sentences"])) for row in rows)
        title = {"coco": "coco_karpathy"}.get(name, name)
        return _made(title, place, pairs, f"the Karpathy {split} split of {name}")

    return read


class _Sentence(TypedDict):
    raw: str


class _Row(TypedDict):
    split: str
    filename: str
    filepath: NotRequired[str]
    sentences: list[_Sentence]


class _Karpathy(TypedDict):
    """``dataset_NAME.json``."""

    images: list[_Row]


class _Caption(TypedDict):
    image_id: int
    caption: str


class _Image(TypedDict):
    id: int
    file_name: str


class _Coco(TypedDict):
    """``captions_val2017.json``."""

    annotations: list[_Caption]
    images: list[_Image]


def _file(row: _Row) -> str:
    return "/".join(part for part in (row.get("filepath"), row["filename"]) if part)


def coco_val2017(folder: Path | str, images: tuple[Path, ...] = ()) -> CaptionSet:
    """Reads ``captions_val2017.json``."""
    place = Folder(folder, COCO, images)
    path = place.find("captions_val2017.json", "annotations/captions_val2017.json") or place.need("captions_val2017.json")
    document = read_json(path, _Coco)
    texts: dict[int, list[str]] = {}
    for row in document["annotations"]:
        texts.setdefault(row["image_id"], []).append(row["caption"].strip())
    pairs = ((row["file_name"], tuple(texts[row["id"]])) for row in document["images"] if row["id"] in texts)
    return _made("coco_val2017", place, pairs, "COCO val2017 (not the Karpathy test split), all captions of each picture")


def urban1k(folder: Path | str, images: tuple[Path, ...] = ()) -> CaptionSet:
    """Reads Urban-1k."""
    place = Folder(folder, URBAN, images)
    files = sorted((place.path / "caption").glob("*.txt"), key=lambda path: (len(path.stem), path.stem))
    if not files:
        raise UserError(f"{place.path} has no caption/*.txt; get them from {URBAN}.")
    pairs = ((f"image/{path.stem}.jpg", ((read_text(path, AGAIN).splitlines() or [""])[0].strip(),)) for path in files)
    return _made("urban1k", place, pairs, "Urban-1k, the first line of each caption file")


def sharegpt4v(count: int) -> Reader:
    """A reader of the first ``count`` rows of ShareGPT4V's captions."""

    def read(folder: Path | str, images: tuple[Path, ...] = ()) -> CaptionSet:
        place = Folder(folder, SHAREGPT4V, images)
        path = place.need("share-captioner_coco_lcs_sam_1246k_1107.json")
        rows = read_json(path, list[Row])[:count]
        pairs = ((row["image"], (row["conversations"][1]["value"].replace("\n", " ").strip(),)) for row in rows)
        return _made(f"sharegpt4v_{count // 1000}k", place, pairs, f"ShareGPT4V, the first {count:,} rows, line ends to spaces")

    return read


def docci(folder: Path | str, images: tuple[Path, ...] = ()) -> CaptionSet:
    """Reads DOCCI's test split."""
    place = Folder(folder, DOCCI, images)
    path = place.need("docci_descriptions.jsonlines", "docci_descriptions.jsonl")
    rows = [row for row in read_rows(path, lines=True) if row.get("split") == "test"]
    pairs = ((field(row, path, "image_file"), (field(row, path, "description").strip(),)) for row in rows)
    return _made("docci", place, pairs, "DOCCI's test split, whole descriptions")


def captions(table: Path | str, images: tuple[Path, ...] = ()) -> CaptionSet:
    """Reads a table with the columns image and caption."""
    path = Path(table)
    if not path.is_file():
        raise UserError(f"{path} is not a file; give a CSV, TSV, JSONL or JSON table with the columns image and caption.")
    place = Folder(path.parent, "whoever made the table", images)
    texts: dict[str, list[str]] = {}
    for row in read_rows(path):
        name = str(field(row, path, "image", "filepath", "filename", "image_path"))
        texts.setdefault(name, []).append(str(field(row, path, "caption", "text", "description")))
    return _made(path.stem, place, ((name, tuple(own)) for name, own in texts.items()), f"the captions of {path.name}")
