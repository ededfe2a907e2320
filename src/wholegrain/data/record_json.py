"""Records as JSON, which shards hold beside the pictures, and back, with every value looked at."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import NotRequired, TypedDict

from wholegrain.data.record import SCHEMA, Caption, Record, Region
from wholegrain.errors import UserError
from wholegrain.structure import JsonTable, StructureError, structure


def record_to_json(record: Record) -> dict[str, object]:
    """The record as plain values, with its ``schema``; an empty source or mask is left out."""
    captions = [{k: v for k, v in asdict(caption).items() if v or k != "source"} for caption in record.captions]
    regions = [{"box": list(r.box), "phrase": r.phrase, **({"mask": list(r.mask)} if r.mask else {})} for r in record.regions]
    head = {"schema": SCHEMA, "key": record.key, "image": record.image, "size": list(record.size), "split": record.split}
    return {**head, "label": record.label, "captions": captions, "regions": regions}


class _JsonCaption(TypedDict):
    id: str
    text: str
    role: NotRequired[str]
    source: NotRequired[str]


class _JsonRegion(TypedDict):
    box: tuple[float, float, float, float]
    phrase: str
    mask: NotRequired[list[int]]


class _JsonRecord(TypedDict):
    schema: int
    key: str
    image: str
    size: tuple[int, int]
    split: str
    label: str | None
    captions: list[_JsonCaption]
    regions: list[_JsonRegion]


def record_from_json(values: JsonTable) -> Record:
    """The inverse of :func:`record_to_json`.

    Raises:
        UserError: a schema that this version cannot read.
        StructureError: it is no record: a key is missing, or a value is of another kind.
    """
    if not isinstance(values, dict) or type(values.get("schema")) is not int:
        structure(values, _JsonRecord)
    if values["schema"] != SCHEMA:
        problem = f"record {values.get('key')}: its schema is {values.get('schema')!r}"
        raise UserError(f"{problem}, this version reads {SCHEMA}; prepare the data again")
    try:  # a record is read for every picture of every step, so types are looked at by hand, and the slow way says what is wrong
        record = Record(
            key=values["key"],
            image=values["image"],
            size=tuple(values["size"]),
            split=values["split"],
            label=values["label"],
            captions=tuple(Caption(**caption) for caption in values["captions"]),
            regions=tuple(Region(tuple(r["box"]), r["phrase"], tuple(r.get("mask", ()))) for r in values["regions"]),
        )
        if type(values["captions"]) is type(values["regions"]) is list and _sound(record):
            return record
    except (KeyError, TypeError, ValueError, AttributeError):
        pass
    structure(values, _JsonRecord)
    raise StructureError("has values that cannot be: a number that is not finite, a size below 1, or an unknown key of a caption")


def _sound(record: Record) -> bool:
    """Whether all values are of their types, numbers are finite and sizes are above 0."""
    texts = [record.key, record.image, record.split]
    for caption in record.captions:
        texts += (caption.id, caption.text, caption.role, caption.source)
    numbers = list(record.size)
    for region in record.regions:
        texts.append(region.phrase)
        numbers += region.mask
        if len(region.box) != 4 or not all(type(x) in (int, float) and math.isfinite(x) for x in region.box):
            return False
    whole = len(record.size) == 2 and all(type(n) is int and n >= 0 for n in numbers) and min(record.size) > 0
    return whole and all(type(text) is str for text in texts) and (record.label is None or type(record.label) is str)
