"""Regions as pictures of their own: a data set whose records are crops of another's described regions, captioned by their phrases.

A curriculum: what one object looks like is learned several times faster from a small crop with a short caption than from whole pictures.
Any data set with ``regions`` will do (scenes, COCO boxes, Visual Genome).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from wholegrain.data.dataset import Dataset
from wholegrain.data.record import Caption, Record, Region, caption_id, content_key
from wholegrain.data.shards import ShardWriter
from wholegrain.errors import UserError


def crop_regions(
    dataset: Dataset,
    out: Path | str,
    *,
    side: int,
    split: str = "train",
    seed: int = 0,
    tick: Callable[[int], None] | None = None,
) -> Dataset:
    """Writes a data set of square crops, one for each described region.

    A crop is centred on its region up to a random shift of an eighth of its side and is moved inside the picture; a region larger than ``side``
    is cropped whole and shrunk. Captions: the region's phrase, and every ``phrase`` caption of the record that names the same last word.

    Args:
        side: side of the crops in pixels.
        split: the split whose regions are taken; the crops' split is ``train``.
        tick: called with the number of records done.

    Raises:
        UserError: no record of the split has regions.
    """
    rng, count, seen = np.random.default_rng(seed), 0, set()
    with ShardWriter(out, manifest={"source": f"regions of {split}", "of": dataset.content_hash, "side": side}) as writer:
        for record in dataset.records(split):
            pixels = dataset.pixels(record.key) if record.regions else np.empty((0, 0, 3), np.uint8)
            for region in record.regions:
                picture = _png(_crop(pixels, region, side, rng))
                key = content_key(picture)
                if key in seen:
                    continue
                seen.add(key)
                captions = tuple(Caption(caption_id(t), t, "phrase", "regions") for t in _phrases(record, region))
                writer.add(Record(key, f"{key}.png", (side, side), "train", None, captions), picture)
                count += 1
            if tick:
                tick(1)
        if count == 0:
            raise UserError(f"No record of the split {split} has regions; prepare data with boxes, or leave the crops out.")
    return Dataset(out)


def _crop(pixels_HWC: np.ndarray, region: Region, side: int, rng: np.random.Generator) -> np.ndarray:
    height, width = pixels_HWC.shape[:2]
    x0, y0, x1, y1 = region.box
    reach = min(max(side, x1 - x0, y1 - y0), height, width)
    shift = rng.uniform(-reach / 8, reach / 8, 2)
    left = int(np.clip(round((x0 + x1 - reach) / 2 + shift[0]), 0, width - reach))
    top = int(np.clip(round((y0 + y1 - reach) / 2 + shift[1]), 0, height - reach))
    crop = pixels_HWC[top : top + int(reach), left : left + int(reach)]
    if crop.shape[:2] == (side, side):
        return crop
    return np.asarray(Image.fromarray(crop).resize((side, side), Image.Resampling.BICUBIC))


def _phrases(record: Record, region: Region) -> Iterator[str]:
    noun = region.phrase.rsplit(" ", 1)[-1]
    yield from dict.fromkeys(
        [region.phrase, *(c.text for c in record.captions if c.role == "phrase" and c.text.endswith(f" {noun}"))]
    )


def _png(pixels_HWC: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels_HWC)).save(out, "PNG", compress_level=1)
    return out.getvalue()
