"""Reading prepared data: any record, picture or sidecar row by its key, in any process.

A :class:`Dataset` holds the index (some 100 bytes a record) and file descriptors, nothing else; records and pictures are read
when they are asked for, by ``pread``, which has no file position to share, so forked workers and threads may use one object at
once. Pickled, it is the name of its folder alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from wholegrain.data.index import read_index
from wholegrain.data.layout import Layout
from wholegrain.data.manifest import Manifest, read_manifest
from wholegrain.data.pictures import decode_rgb
from wholegrain.data.record import HardPositive, Negative, Record, Twin
from wholegrain.data.record_json import record_from_json
from wholegrain.data.remote import Remote, address
from wholegrain.data.shards import pread_exactly
from wholegrain.data.sidecars import SIDECARS, CaptionRows, NegativeRows, read_sidecar
from wholegrain.errors import UserError
from wholegrain.files import UnreadableError, open_file, sha256, shown
from wholegrain.structure import StructureError
from wholegrain.suggest import closest

if TYPE_CHECKING:
    cached_property = property  # protocols ask for properties, and type checkers do not take a cached one for one
else:
    from functools import cached_property

_MOST_OPEN = 256
AGAIN = "prepare the data set again"


class BrokenImageError(UserError):
    """An image or its record that cannot be read, in a shard that is whole."""


class Dataset:
    """A folder that ``wholegrain prepare`` or :class:`~wholegrain.data.shards.ShardWriter` made.

    Args:
        folder: holds ``manifest.json``, ``index.parquet`` and ``shards/``; or its address, such as ``https://...`` or ``s3://...``: shards
            then come when they are asked for, and stay (:mod:`~wholegrain.data.remote`).

    Raises:
        UserError: the folder is not a prepared data set, or one of another schema.

    Example::

        dataset = Dataset("data/photos")
        for key in dataset.keys("train"):
            pixels_HWC, record = dataset.pixels(key), dataset.record(key)
    """

    def __init__(self, folder: Path | str) -> None:
        far = address(folder)
        self.remote = Remote(far) if far else None
        self._begin(self.remote.folder if self.remote is not None else Path(folder))

    def _begin(self, folder: Path) -> None:
        self.folder = folder
        self._descriptors: dict[str, int] = {}
        self._last = ("", -1)
        self._keys_of: dict[str, list[str]] = {}
        self.manifest: Manifest = read_manifest(self.folder)

    def __getstate__(self) -> tuple[Path, Remote | None]:
        return self.folder, self.remote

    def __setstate__(self, state: tuple[Path, Remote | None]) -> None:
        folder, self.remote = state
        self._begin(folder)

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_descriptors", {}).values():
            os.close(descriptor)

    def __repr__(self) -> str:
        return f"Dataset({self.remote.url if self.remote is not None else str(self.folder)!r})"

    def __len__(self) -> int:
        """Number of records in all splits."""
        return len(self._index["image_offset"])

    @cached_property
    def _index(self) -> dict[str, np.ndarray]:
        if self.remote is not None and not self.remote.refresh("index.parquet"):
            raise UserError(f"{self.remote.url}/index.parquet is missing; upload the data set again.")
        return read_index(self.folder / "index.parquet", self.manifest)

    def _row(self, key: str) -> int:
        last, row = self._last  # record and picture of a key are mostly asked for one after the other
        if last == key:
            return row
        index, name = self._index, key.encode()
        place = int(index["sorted_key"].searchsorted(name))
        if place == len(index["order"]) or index["sorted_key"][place] != name:
            raise KeyError(f"{self.folder} has no record {key}")
        self._last = (key, row := int(index["order"][place]))
        return row

    def __contains__(self, key: str) -> bool:
        try:
            return self._row(key) >= 0
        except KeyError:
            return False

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits: train, val, test first, others after them by name."""
        known = ("train", "val", "test")
        names = self.manifest["splits"]
        return tuple(s for s in known if s in names) + tuple(sorted(s for s in names if s not in known))

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name if self.remote is None else self.remote.name

    def _require(self, split: str) -> None:
        if split not in self.manifest["splits"]:
            raise UserError(f"{self.folder} has no split {split!r}; {closest(split, self.splits)}")

    def keys(self, split: str) -> list[str]:
        """The keys of a split, sorted by shard and offset. Raises :class:`UserError` for a split that is not there."""
        self._require(split)
        if split not in self._keys_of:
            index = self._index
            chosen = index["split_names"][index["split"]] == split
            self._keys_of[split] = [key.decode() for key in index["key"][chosen].tolist()]
        return list(self._keys_of[split])

    def layout(self, split: str) -> Layout:
        """Where the samples of a split lie; see :meth:`keys`."""
        self._require(split)
        index = self._index
        chosen = index["split_names"][index["split"]] == split
        shard_N = index["shard"][chosen]
        return Layout(
            index["key"][chosen], shard_N - shard_N.min(initial=0), np.zeros(len(shard_N), dtype=np.int32), (self.name,)
        )

    def _read(self, row: int, what: str) -> bytes:
        index = self._index
        name: str = index["shard_names"].item(index["shard"][row])
        offset, size = int(index[f"{what}_offset"][row]), int(index[f"{what}_bytes"][row])
        descriptor = self._descriptors.get(name)
        if descriptor is not None and len(found := os.pread(descriptor, size, offset)) == size:
            return found
        path = self.folder / "shards" / name
        if descriptor is not None:
            return pread_exactly(descriptor, offset, size, path)
        descriptor = self._opened(name, path)
        # Descriptors are never exchanged, so that threads need no lock: beyond the first shards each read opens its own. One that
        # stays open would keep the disk space of a shard that the mirror let go.
        room = self.remote is None and len(self._descriptors) < _MOST_OPEN
        keep = room and self._descriptors.setdefault(name, descriptor) == descriptor
        try:
            return pread_exactly(descriptor, offset, size, path)
        finally:
            if not keep:
                os.close(descriptor)

    def _opened(self, name: str, path: Path) -> int:
        for _ in range(3):  # another process may take a shard away between these two lines
            if self.remote is not None:
                path = self.remote.shard(name)
            try:
                descriptor = open_file(path, "prepare the data set again")
            except UnreadableError as error:
                if error.missing:
                    continue
                raise
            if os.path.islink(path) and not os.path.realpath(path).startswith(os.path.realpath(path.parent) + os.sep):
                os.close(descriptor)
                raise UserError(f"{shown(path)} is a link that leaves its folder; put the shard itself there")
            return descriptor
        raise UserError(f"{shown(path)} is missing, though the index names it; prepare the data set again: wholegrain prepare SOURCE {self.folder} --overwrite")

    @property
    def far(self) -> bool:
        """Whether shards may have to be fetched."""
        return self.remote is not None

    def fetch(self, key: str) -> None:
        """Has the shard of this key at hand, where it lies far away."""
        if self.remote is not None:
            self.remote.shard(self._shard(key).name)

    def _shard(self, key: str) -> Path:
        return self.folder / "shards" / self._index["shard_names"].item(self._index["shard"][self._row(key)])

    def record(self, key: str) -> Record:
        """The record of a key, with generated captions behind its own. Raises :class:`KeyError` for a key that is not there."""
        record = self.original(key)
        generated = self.generated.of(key) if len(self.generated) else ()
        return replace(record, captions=record.captions + generated) if generated else record

    def original(self, key: str) -> Record:
        """The record of a key as it was prepared, without generated captions."""
        text = self._read(self._row(key), "json")
        try:
            record = record_from_json(json.loads(text.decode()))  # given bytes, it would first guess their encoding
            if record.key == key:
                return record
            raise StructureError(f"is the one of {shown(record.key)}")
        except (ValueError, RecursionError) as error:
            raise BrokenImageError(
                f"the record of image {key} in {self._shard(key)} is broken ({error}); prepare the data set again"
            ) from None

    def records(self, split: str) -> Iterator[Record]:
        """The records of a split, in the order of :meth:`keys`."""
        return map(self.record, self.keys(split))

    def image_bytes(self, key: str) -> bytes:
        """The image's file, byte for byte as it was given."""
        return self._read(self._row(key), "image")

    def pixels(self, key: str) -> np.ndarray:
        """The decoded image: uint8 RGB ``[H, W, 3]``; see :func:`~wholegrain.data.pictures.decode_rgb`. Raises :class:`BrokenImageError`."""
        image = self.image_bytes(key)
        try:
            return decode_rgb(image)
        except ValueError as error:
            raise BrokenImageError(
                f"image {key} in {self._shard(key)} cannot be decoded ({error}); prepare the data set again"
            ) from None

    @cached_property
    def generated(self) -> CaptionRows:
        """Captions that models wrote, which :meth:`record` shows; none without the sidecar."""
        return CaptionRows(self._sidecar("captions"))

    @property
    def roles(self) -> dict[str, int]:
        """Role -> number of captions, generated ones among them, sorted; empty where the manifest does not count roles."""
        own = self.manifest.get("roles")
        return dict(sorted((Counter(own) + Counter(self.generated.roles)).items())) if own else {}

    @cached_property
    def negatives(self) -> Mapping[tuple[str, str], tuple[Negative, ...]]:
        """(key, caption id) -> its hard negatives, in the order in which they were written; empty without the sidecar."""
        return NegativeRows(self._sidecar("negatives"))

    @cached_property
    def negative_kinds(self) -> tuple[str, ...]:
        """The kinds of hard negatives there are, sorted; empty without the sidecar."""
        return tuple(sorted(self._sidecar("negatives")["kind"].unique().to_pylist()))

    @cached_property
    def twins(self) -> tuple[Twin, ...]:
        """Composition test items; empty without the sidecar."""
        return tuple(Twin(**{**row, **_pairs(row, "keys", "captions")}) for row in self._sidecar("twins").to_pylist())

    @cached_property
    def hard_positives(self) -> tuple[HardPositive, ...]:
        """Test items of two true wordings and a false one; empty without the sidecar."""
        return tuple(HardPositive(**{**row, **_pairs(row, "captions")}) for row in self._sidecar("hard_positives").to_pylist())

    @cached_property
    def truths(self) -> dict[str, tuple[str, ...]]:
        """Caption id -> keys of further images of which that caption is true; empty without the sidecar."""
        found: dict[str, tuple[str, ...]] = {}
        table = self._sidecar("truths")
        for caption, key in zip(table["caption"].to_pylist(), table["key"].to_pylist(), strict=True):
            found[caption] = (*found.get(caption, ()), key)
        return found

    def _sidecar(self, name: str) -> pa.Table:
        path = self.folder / f"{name}.parquet"
        exists = os.path.lexists(path) if self.remote is None else self.remote.refresh(path.name)
        return read_sidecar(path, name) if exists else SIDECARS[name].empty_table()

    @cached_property
    def records_hash(self) -> str:
        """SHA-256 (hex) over the records and their images alone: no sidecar changes it."""
        total = hashlib.sha256(json.dumps(self.manifest.get("shards", {}), sort_keys=True).encode())
        total.update(bytes.fromhex(sha256(self.folder / "index.parquet", AGAIN)))
        return total.hexdigest()

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 (hex) over the index, the shards' hashes and the sidecars: the same data, the same hash, wherever it lies."""
        total = hashlib.sha256(json.dumps(self.manifest.get("shards", {}), sort_keys=True).encode())
        for name in ("index", *sorted(SIDECARS)):
            path = self.folder / f"{name}.parquet"
            if path.exists() if self.remote is None else self.remote.refresh(path.name):
                total.update(f"{name}:{sha256(path, AGAIN)}".encode())
        return total.hexdigest()


def _pairs(row: Mapping[str, Iterable[str]], *names: str) -> dict[str, tuple[str, ...]]:
    return {name: tuple(row[name]) for name in names}
