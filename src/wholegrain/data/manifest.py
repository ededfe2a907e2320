"""``manifest.json``: what is in a data set. It comes from wherever the data come from, so it is read by types."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NotRequired, TypedDict

from wholegrain.data.record import SCHEMA
from wholegrain.errors import UserError
from wholegrain.files import UnreadableError, parse_json, read_text, shown
from wholegrain.structure import JsonTable, StructureError

Manifest = JsonTable
SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}\.tar")
"""Of a file directly in ``shards/``."""
_AGAIN = "prepare the data set again"


class _Counts(TypedDict):
    images: int
    captions: int


class _Broken(TypedDict):
    where: str
    reason: str


class _AllBroken(TypedDict):
    count: int
    listed: list[_Broken]


class _Places(TypedDict):
    count: int
    listed: list[str]


class _Equal(TypedDict):
    where: list[str]


class _AllEqual(TypedDict):
    count: int
    listed: list[_Equal]


class _LeftOut(TypedDict):
    where: str


class _Moved(TypedDict):
    kept: str
    left_out: list[_LeftOut]


class _AllMoved(TypedDict):
    count: int
    listed: list[_Moved]


class _Repeated(TypedDict):
    text: str
    images: dict[str, int]


class _AllRepeated(TypedDict):
    inside_splits: NotRequired[int]
    across_splits: NotRequired[int]
    listed: NotRequired[list[_Repeated]]


class _Duplicates(TypedDict):
    captions: NotRequired[_AllRepeated]
    images_inside_splits: NotRequired[_AllEqual]
    images_across_splits: NotRequired[_AllMoved]


class _Tokens(TypedDict):
    tokenizer: str
    context: int
    measured: int
    cut_share: float
    mean: NotRequired[float]
    p95: NotRequired[float]
    max: NotRequired[int]


class _Lengths(TypedDict):
    words: dict[str, int]
    tokens: _Tokens


class _Manifest(TypedDict):
    """What is read of a manifest; further keys are left in."""

    schema: int
    splits: dict[str, _Counts]
    shards: NotRequired[dict[str, str]]
    captions_per_image: NotRequired[dict[str, int]]
    roles: NotRequired[dict[str, int]]
    source: NotRequired[str]
    identity: NotRequired[str]
    split_by: NotRequired[str]
    pictures: NotRequired[str]
    captions: NotRequired[_Lengths]
    duplicates: NotRequired[_Duplicates]
    broken: NotRequired[_AllBroken]
    empty_captions: NotRequired[_Places]
    images_without_captions: NotRequired[_Places]


class _Schema(TypedDict):
    schema: int


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a prepared data set.

    Raises:
        UserError: there is none, it is of another schema, or it says something else than a manifest does.
    """
    path = folder / "manifest.json"
    try:
        return parse_manifest(read_text(path, _AGAIN), str(path))
    except UnreadableError as error:
        if not error.missing:
            raise
        what = "is not a prepared data set" if folder.exists() else "does not exist"
        raise UserError(f"{shown(folder)} {what}; make one with: wholegrain prepare SOURCE {shown(folder)}") from None


def parse_manifest(text: str | bytes, path: str, advice: str = _AGAIN) -> Manifest:
    """:func:`read_manifest` of its text; ``path`` is for the sentence."""
    try:
        if parse_json(text, _Schema)["schema"] != SCHEMA:
            raise UserError(f"{shown(path)} is not of schema {SCHEMA}, which this version reads; prepare the data again")
        manifest: Manifest = dict(parse_json(text, _Manifest))
    except StructureError as error:
        raise UnreadableError(path, str(error), advice) from None
    odd = next((name for name in manifest.get("shards", {}) if not SHARD_NAME.fullmatch(name)), None)
    if odd is not None:
        raise UnreadableError(path, f"names the shard {shown(odd)!r}, which is no plain name of a .tar file", advice)
    if any(counts["images"] < 0 or counts["captions"] < 0 for counts in manifest["splits"].values()):
        raise UnreadableError(path, 'counts less than nothing at "splits"', advice)
    return manifest
