"""The data of the bench: pictures of noise, captions of natural length with hard negatives of the same length."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from wholegrain.data.dataset import Dataset
from wholegrain.data.record import Caption, Negative, Record, caption_id, content_key
from wholegrain.data.scenes.captions import overview
from wholegrain.data.scenes.world import World, draw_scene
from wholegrain.data.shards import ShardWriter
from wholegrain.data.sidecars import write_sidecar
from wholegrain.errors import UserError

ROLES = ("overview", "main_object", "background", "detail", "style")
KINDS = ("swap_object", "swap_attribute", "relation", "object")


def write_data(folder: Path, captions: Sequence[str], images: int, size: int) -> Dataset:
    """A prepared data set of ``images`` pictures of ``size`` pixels, each with five captions, and four negatives for each of them.

    Raises:
        UserError: fewer distinct captions than it takes.
    """
    distinct = list(dict.fromkeys(captions))
    if len(distinct) < len(ROLES) * images:
        raise UserError(
            f"{len(ROLES) * images} distinct captions are needed for {images} images and there are {len(distinct)}; set --batch to "
            f"{len(distinct) // len(ROLES)} or less, or give larger data."
        )
    random = np.random.default_rng(0)
    texts = iter(random.permutation(distinct).tolist())
    negatives: list[Negative] = []
    with ShardWriter(folder, manifest={"source": "bench"}) as writer:
        for _ in range(images):
            picture = _noise(random, size)
            key = content_key(picture)
            said = [Caption(caption_id(text), text, role) for role, text in zip(ROLES, islice(texts, len(ROLES)), strict=True)]
            writer.add(Record(key, f"{key}.jpg", (size, size), "train", None, tuple(said), ()), picture)
            negatives += [negative for caption in said for negative in _negatives(key, caption)]
    write_sidecar(folder, "negatives", negatives)
    return Dataset(folder)


def made_captions(count: int) -> list[str]:
    """Distinct captions of scenes that name two objects, for want of a user's own: 9 to 22 tokens, 14 on average."""
    world, captions, index = World(), {}, 0
    while len(captions) < count:
        random = world.rng("train", index)
        captions[overview(draw_scene(world, random), random).text] = index
        index += 1
    return list(captions)


def captions_of(dataset: Dataset, count: int) -> list[str]:
    """Distinct captions of a data set's training split, in the order of its keys."""
    captions: dict[str, None] = {}
    for record in dataset.records("train"):
        captions |= dict.fromkeys(caption.text for caption in record.captions if len(caption.text.split()) > 1)
        if len(captions) >= count:
            break
    return list(captions)[:count]


def _noise(random: np.random.Generator, size: int) -> bytes:
    """A JPEG of a smooth random picture."""
    small = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    file = io.BytesIO()
    small.resize((size, size), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def _negatives(key: str, caption: Caption) -> Iterator[Negative]:
    """The caption with two of its words exchanged, other ones for each kind."""
    words = caption.text.split()
    for place, kind in enumerate(KINDS):
        changed = list(words)
        one, other = place % len(words), (place + len(words) // 2) % len(words)
        changed[one], changed[other] = changed[other], changed[one]
        yield Negative(key, caption.id, kind, " ".join(changed), (), "bench")
