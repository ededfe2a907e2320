"""Writing prepared data: WebDataset tar shards, and an index that says where in them every record lies.

Shards are ordinary tar files (USTAR) with two members a record, ``KEY.ext`` (the bytes of the image, untouched) and ``KEY.json``;
times and owners are zero, so the same records give the same bytes. ``index.parquet`` holds the offset of every member, so any
record is one ``pread`` away. All is written aside and renamed; the manifest comes last: without it a folder is no data set.

A finished shard leaves a note in ``.unfinished/``. A writer that is opened with ``resume=True`` on a folder that was cut short
keeps those shards, says in :attr:`ShardWriter.done` how many records of each split they hold, and goes on behind them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tarfile
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wholegrain.data.record import SCHEMA, Record, content_key
from wholegrain.data.record_json import record_to_json
from wholegrain.errors import UserError
from wholegrain.files import aside, disk_errors, keepable, open_file, parse_json, read_parquet, shown, write_json
from wholegrain.structure import structure

SHARD_BYTES = 256 * 2**20
INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.string()),
        ("label", pa.string()),
        ("captions", pa.int32()),
        ("shard", pa.string()),
        ("image_offset", pa.int64()),
        ("image_bytes", pa.int64()),
        ("json_offset", pa.int64()),
        ("json_bytes", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)
UNFINISHED = ".unfinished"
_AGAIN = "prepare the data set again"
NOTHING: Mapping[str, object] = MappingProxyType({})
SPLIT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


class ShardWriter:
    """Writes records of any number of splits into a folder.

    Args:
        folder: is made if it is missing; must not hold a finished data set.
        shard_bytes: a shard is closed before a record would make it longer than this.
        manifest: further entries of ``manifest.json``, which is written on closing with counts by split, captions per image and
            roles; ``None`` leaves the manifest to the caller.
        resume: keep the finished shards of a writer that was cut short; see :attr:`done`.

    Attributes:
        done: split -> number of records that finished shards of an earlier writer hold already; the caller adds the rest.

    Raises:
        UserError: the folder holds a data set or cannot be written, or a split's name cannot be part of a file name.
        MachineError: the disk is full; nothing half-written stays behind under a final name.

    Example::

        with ShardWriter(folder, manifest={"source": "my camera"}) as writer:
            writer.add(record, image_bytes)
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        shard_bytes: int = SHARD_BYTES,
        manifest: Mapping[str, object] | None = NOTHING,
        resume: bool = False,
    ) -> None:
        self.folder, self.shard_bytes, self.manifest = Path(folder), shard_bytes, manifest
        self._open: dict[str, _Shard] = {}
        self._numbers: Counter[str] = Counter()
        self._keys: set[int] = set()
        self.done: Counter[str] = Counter()
        if (self.folder / "manifest.json").exists():
            raise UserError(f"{self.folder} holds a data set already; give another folder, or remove it first")
        keepable(self.folder)
        with disk_errors(self.folder):
            notes = self.folder / UNFINISHED
            if not resume:
                shutil.rmtree(notes, ignore_errors=True)
                shutil.rmtree(self.folder / "shards", ignore_errors=True)
            (self.folder / "shards").mkdir(parents=True, exist_ok=True)
            notes.mkdir(exist_ok=True)
            self._resume(notes)

    def _resume(self, notes: Path) -> None:
        """Keeps the shards whose notes are whole, up to the first of each split that is not."""
        kept = set()
        for note in sorted(notes.glob("*.parquet")):
            split, _, number = note.stem.rpartition("-")
            rows = _whole(note, self.folder / "shards" / f"{note.stem}.tar") if number == f"{self._numbers[split]:06d}" else None
            if rows is None or set(rows["split"].to_pylist()) != {split}:
                note.unlink()
                continue
            self.done[split] += rows.num_rows
            self._numbers[split] += 1
            self._keys.update(map(_number, rows["key"].to_pylist()))
            kept.add(note.stem)
        for shard in (self.folder / "shards").iterdir():
            if shard.stem not in kept or shard.suffix != ".tar":
                shard.unlink()

    def add(self, record: Record, image: bytes) -> None:
        """Appends one record. ``image`` are the bytes of the file whose name is ``record.image``; a key may come only once.

        Raises:
            ValueError: the key is not :func:`~wholegrain.data.record.content_key` of the image (features are kept by key, so another picture
                under a known key would be given the features of the first), or it came before.
        """
        if record.key != content_key(image):
            raise ValueError(f"the key {shown(record.key)} is not content_key(image), which features are kept by; take that one")
        number = _number(record.key)
        if number in self._keys:
            raise ValueError(f"the key {record.key} was added twice; merge the captions of equal images first")
        self._keys.add(number)
        text = json.dumps(record_to_json(record), ensure_ascii=False, separators=(",", ":")).encode()
        with disk_errors(self.folder):
            shard = self._open.get(record.split)
            if shard is not None and shard.size + _padded(len(image)) + _padded(len(text)) + 1024 > self.shard_bytes:
                shard.finish()
                shard = None
            if shard is None:
                shard = self._open[record.split] = self._new_shard(record.split)
            shard.add(record, image, text)

    def _new_shard(self, split: str) -> _Shard:
        if not SPLIT_NAME.fullmatch(split):
            raise UserError(f"the split name {shown(split)!r} cannot be part of a file name; use at most 100 letters, digits, '_', '-' and '.'")
        name = f"{split}-{self._numbers[split]:06d}"
        self._numbers[split] += 1
        return _Shard(self.folder, name)

    def close(self) -> dict[str, object]:
        """Finishes the open shards, writes ``index.parquet`` and, unless it is the caller's, ``manifest.json``.

        Returns:
            the counted part of the manifest: splits (images and captions), captions_per_image, roles, shards (name -> SHA-256).
        """
        with disk_errors(self.folder):
            for shard in self._open.values():
                shard.finish()
            self._open.clear()
            counts = self._write_index()
            if self.manifest is not None:
                write_json(self.folder / "manifest.json", {"schema": SCHEMA, **self.manifest, **counts})
                shutil.rmtree(self.folder / UNFINISHED)
        return counts

    def _write_index(self) -> dict[str, object]:
        """One row group a shard, in the order of shard names and offsets."""
        hashes: dict[str, str] = {}
        splits: dict[str, dict[str, int]] = {}
        per_image: Counter[int] = Counter()
        roles: Counter[str] = Counter()
        with aside(self.folder / "index.parquet") as part, pq.ParquetWriter(part, INDEX_SCHEMA, compression="zstd") as writer:
            for note in sorted((self.folder / UNFINISHED).glob("*.parquet")):
                table = read_parquet(note, INDEX_SCHEMA, _AGAIN)
                metadata = _metadata(table, note)
                writer.write_table(table.replace_schema_metadata(None))
                hashes[f"{note.stem}.tar"] = metadata["sha256"]
                roles.update(metadata["roles"])
                counts = table["captions"].to_pylist()
                per_image.update(counts)
                split = splits.setdefault(table["split"][0].as_py(), {"images": 0, "captions": 0})
                split["images"] += len(counts)
                split["captions"] += sum(counts)
        histogram = {str(n): count for n, count in sorted(per_image.items())}
        return {"splits": splits, "captions_per_image": histogram, "roles": dict(sorted(roles.items())), "shards": hashes}

    def abort(self) -> None:
        """Closes without finishing: open shards go, finished ones stay for ``resume=True``."""
        for shard in self._open.values():
            shard.drop()
        self._open.clear()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is not None:
            self.abort()
            return
        try:
            self.close()
        except BaseException:
            self.abort()
            raise


class _Shard:
    """One tar file in the making: ``NAME.tar.part`` until it is complete."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name, self.size = folder, name, 0
        self.part = folder / "shards" / f"{name}.tar.part"
        self.file: BinaryIO = self.part.open("wb", buffering=2**20)
        self.hash = hashlib.sha256()
        self.rows: list[tuple] = []
        self.roles: Counter[str] = Counter()

    def _write(self, data: bytes) -> None:
        self.file.write(data)
        self.hash.update(data)
        self.size += len(data)

    def _member(self, name: str, data: bytes) -> int:
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o644
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        offset = self.size
        self._write(data)
        self._write(bytes(-len(data) % 512))
        return offset

    def add(self, record: Record, image: bytes, text: bytes) -> None:
        image_at = self._member(record.image, image)
        text_at = self._member(f"{record.key}.json", text)
        places = (f"{self.name}.tar", image_at, len(image), text_at, len(text))
        self.rows.append((record.key, record.split, record.label, len(record.captions), *places, *record.size))
        self.roles.update(caption.role for caption in record.captions)

    def finish(self) -> None:
        self._write(bytes(1024))
        self._write(bytes(-self.size % tarfile.RECORDSIZE))
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        os.replace(self.part, self.part.with_suffix(""))
        columns = zip(*self.rows, strict=True)
        table = pa.table([pa.array(c, f.type) for c, f in zip(columns, INDEX_SCHEMA, strict=True)], schema=INDEX_SCHEMA)
        metadata = {"sha256": self.hash.hexdigest(), "roles": json.dumps(self.roles)}
        with aside(self.folder / UNFINISHED / f"{self.name}.parquet") as part:
            pq.write_table(table.replace_schema_metadata(metadata), part)

    def drop(self) -> None:
        with suppress(OSError):
            self.file.close()
        self.part.unlink(missing_ok=True)


class _Metadata(TypedDict):
    sha256: str
    roles: dict[str, int]


def _metadata(table: pa.Table, note: Path) -> _Metadata:
    metadata = table.schema.metadata or {}
    try:
        return structure({"sha256": metadata[b"sha256"].decode(), "roles": parse_json(metadata[b"roles"], dict)}, _Metadata)
    except (KeyError, ValueError):
        raise UserError(f"{shown(note)} does not say what its shard holds; {_AGAIN}.") from None


def _whole(note: Path, shard: Path) -> pa.Table | None:
    """The rows of a note, if it is as it was written and its shard is there in full length."""
    try:
        rows = read_parquet(note, INDEX_SCHEMA, _AGAIN)
        _metadata(rows, note)
        ends = np.add(rows["json_offset"].to_numpy(), rows["json_bytes"].to_numpy())
        return rows if rows.num_rows and shard.is_file() and shard.stat().st_size >= int(ends.max()) else None
    except (UserError, ValueError, TypeError):
        return None


def read_member(path: Path | str, offset: int, size: int) -> bytes:
    """``size`` bytes of a file from ``offset`` on. Raises :class:`UserError` if the file is shorter than that."""
    descriptor = open_file(path, "fetch it again")
    try:
        return pread_exactly(descriptor, offset, size, path)
    finally:
        os.close(descriptor)


def pread_exactly(descriptor: int, offset: int, size: int, name: Path | str) -> bytes:
    """``os.pread`` that never returns less than was asked for."""
    data = os.pread(descriptor, size, offset)
    while len(data) < size:
        more = os.pread(descriptor, size - len(data), offset + len(data))
        if not more:
            raise UserError(f"{name} ends before byte {offset + size}, so it was cut short; prepare the data set again")
        data += more
    return data


def _number(key: str) -> int:
    return int(key[:16], 16) if re.fullmatch("[0-9a-f]{16,}", key) else hash(key)


def _padded(size: int) -> int:
    return 512 + size + -size % 512
