"""A contact sheet: one self-contained HTML page that shows a data set's pictures with all that is said of them."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from jinja2 import ChainableUndefined
from PIL import Image

from wholegrain.data.dataset import Dataset
from wholegrain.data.record import Negative, Record
from wholegrain.report.entry import Card
from wholegrain.report.page import page_environment, write_page

THUMB = 320
_MOST_NEGATIVES = 8


def write_contact_sheet(dataset: Dataset, path: Path, *, per_split: int = 12, seed: int = 0) -> Path:
    """Writes the page, aside first.

    Args:
        dataset: any prepared data set, with or without sidecars.
        path: the HTML file; it needs no other file and no network.
        per_split: pictures of each split, drawn by ``seed``, in the data set's order.

    Returns:
        ``path``.
    """
    splits = [{"name": s, **dataset.manifest["splits"][s], "cards": _cards(dataset, s, per_split, seed)} for s in dataset.splits]
    environment = page_environment().overlay(undefined=ChainableUndefined)  # a manifest need not have all parts
    page = environment.get_template("contact_sheet.html.j2").render(
        name=dataset.folder.resolve().name, manifest=dataset.manifest, splits=splits, thumb=THUMB
    )
    return write_page(path, page)


def _cards(dataset: Dataset, split: str, count: int, seed: int) -> list[Card]:
    keys = dataset.keys(split)
    chosen = np.random.default_rng(seed).choice(len(keys), size=min(count, len(keys)), replace=False)
    return [_card(dataset, dataset.record(keys[place])) for place in sorted(chosen.tolist())]


def _card(dataset: Dataset, record: Record) -> Card:
    width, height = record.size
    captions = []
    for caption in record.captions:
        negatives = dataset.negatives.get((record.key, caption.id), ())
        shown = [{"kind": n.kind, "pieces": mark_edits(caption.text, n)} for n in negatives[:_MOST_NEGATIVES]]
        captions.append({"text": caption.text, "role": caption.role, "negatives": shown, "more": len(negatives) - len(shown)})
    regions = [
        {"x": x0, "y": y0, "w": x1 - x0, "h": y1 - y0, "phrase": r.phrase} for r in record.regions for x0, y0, x1, y1 in [r.box]
    ]
    thumbnail = _thumbnail(dataset.pixels(record.key))
    return {"record": record, "width": width, "height": height, "captions": captions, "regions": regions, "image": thumbnail}


def _thumbnail(pixels_HWC: np.ndarray) -> str:
    picture = Image.fromarray(pixels_HWC)
    small = max(picture.size) < 128
    if not small:
        picture.thumbnail((2 * THUMB, 2 * THUMB))
    file = io.BytesIO()
    picture.save(file, "PNG" if small else "JPEG", quality=82)
    return f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(file.getvalue()).decode()}"


def mark_edits(caption: str, negative: Negative) -> list[tuple[str, str]]:
    """The negative's text in pieces (mark, text): ``same``, ``old`` (taken out of the caption) and ``new`` (put in).

    Edits that do not fit their caption are not trusted: then the text is one ``new`` piece.

    Example:
        >>> mark_edits("a red cup", Negative("k", "c", "colour", "a blue cup", ((2, 5, "red", "blue"),)))
        [('same', 'a '), ('old', 'red'), ('new', 'blue'), ('same', ' cup')]
    """
    pieces, place = [], 0
    for start, end, old, new in sorted(negative.edits):
        if start < place or caption[start:end] != old:
            return [("new", negative.text)]
        pieces += [("same", caption[place:start]), ("old", old), ("new", new)]
        place = end
    pieces.append(("same", caption[place:]))
    if "".join(text for mark, text in pieces if mark != "old") != negative.text:
        return [("new", negative.text)]
    return [(mark, text) for mark, text in pieces if text]
