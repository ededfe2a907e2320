"""The one record of image-text data, and the sidecar rows that are joined to it by key and caption id.

A prepared data set is a folder::

    manifest.json             what is in it: schema, counts, captions per image, duplicates, broken images, hashes
    index.parquet             one row a record: key, split, label, captions (count), shard, and where the bytes lie in the shard
    shards/SPLIT-000000.tar   WebDataset shards: KEY.jpg (or .png, .webp) with the untouched image bytes, KEY.json with the record
    captions.parquet          optional sidecar: :class:`GeneratedCaption` rows, read as further captions of their records
    negatives.parquet         optional sidecar: :class:`Negative` rows
    twins.parquet             optional sidecar: :class:`Twin` rows, test items for composition
    hard_positives.parquet    optional sidecar: :class:`HardPositive` rows, test items

Source records are immutable; what is made later (negatives, generated captions) lives in sidecars, joined by key and caption
id, never by position.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

SCHEMA = 1


def content_key(image: bytes) -> str:
    """The key of an image: the first 20 hex digits of the SHA-256 of its file's bytes.

    Example:
        >>> content_key(b"")
        'e3b0c44298fc1c149afb'
    """
    return hashlib.sha256(image).hexdigest()[:20]


def caption_id(text: str) -> str:
    """The id of a caption: the first 12 hex digits of the SHA-256 of its UTF-8 text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Caption:
    """One text that is true of an image.

    Attributes:
        id: :func:`caption_id` of the text.
        text: the caption, as given.
        role: what it is about: ``web`` (an ordinary caption), ``overview``, ``detail``, ``main_object``, ``background``,
            ``style``, ``nouns``, ``relation``, ``phrase`` (a noun phrase of one object), …; free, but stated in the manifest.
        source: where it came from (a file and field, a model and prompt).
    """

    id: str
    text: str
    role: str = "web"
    source: str = ""


def generated_id(text: str, role: str, source: str) -> str:
    """The id of a generated caption: ``g`` and 12 hex digits, so it is never the id of a caption of the record itself.

    Texts that two prompts have in common keep an id each.
    """
    return "g" + hashlib.sha256("\0".join((role, source, text)).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class GeneratedCaption:
    """A sidecar row: a caption that a model wrote, which a data set shows among the captions of its record.

    Attributes:
        key: the record.
        caption: :func:`generated_id`.
        role: as :attr:`Caption.role`: ``detail``, ``background``, …
        text: what was written.
        source: model, prompt with its version, and seed in one text: what :attr:`Caption.source` says.
        model, prompt, version, seed: the same one by one.
    """

    key: str
    caption: str
    role: str
    text: str
    source: str
    model: str
    prompt: str
    version: str
    seed: int = 0


@dataclass(frozen=True)
class Region:
    """One described part of an image.

    Attributes:
        box: x0, y0, x1, y1 in pixels of the stored image, x1 and y1 exclusive.
        phrase: a noun phrase that is true of this region and of no other region of the image.
        mask: run lengths of the region's mask in row-major order, beginning with a (possibly empty) run of zeros; empty if unknown.
    """

    box: tuple[float, float, float, float]
    phrase: str
    mask: tuple[int, ...] = ()


@dataclass(frozen=True)
class Record:
    """One image and everything that is said of it.

    Attributes:
        key: :func:`content_key` of the image's bytes.
        image: the image's file name inside the shard.
        size: width and height in pixels.
        split: ``train``, ``val``, ``test`` or any other name.
        label: class name for classification, or ``None``.
        captions: at least one; unequal counts are normal.
        regions: described parts, may be empty.
    """

    key: str
    image: str
    size: tuple[int, int]
    split: str = "train"
    label: str | None = None
    captions: tuple[Caption, ...] = ()
    regions: tuple[Region, ...] = ()


@dataclass(frozen=True)
class Negative:
    """A sidecar row: a text that differs from a true caption in stated edits and is false of the image.

    Attributes:
        key, caption: the record and the id of the true caption it was made from.
        kind: ``replace_object``, ``swap_attribute``, ``relation``, …
        text: the false text.
        edits: (start, end, old, new) in code points of the true caption.
        source: generator, version and seed.
    """

    key: str
    caption: str
    kind: str
    text: str
    edits: tuple[tuple[int, int, str, str], ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Twin:
    """A composition test item: two images and two captions, ``captions[i]`` true of ``keys[i]`` and false of the other.

    Attributes:
        item: a stable id.
        kind: the one fact in which the twins differ.
        keys, captions: the two records and the two texts.
        split: the test that it belongs to (``test``, ``test_crowded``, …).
    """

    item: str
    kind: str
    keys: tuple[str, str]
    captions: tuple[str, str]
    split: str = "test"


@dataclass(frozen=True)
class HardPositive:
    """A test item with two true wordings of one fact and one false text: right only if both true ones score above the false one."""

    item: str
    kind: str
    key: str
    captions: tuple[str, str]
    negative: str
    split: str = "test"
