"""Parquet: an image column of bytes, of ``{bytes, path}``, or of paths; captions as a string or a list of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from wholegrain.data.sources.columns import Columns, WrongValueError, regions_of
from wholegrain.data.sources.sample import InsideFolder, RawSample, SourceOptions, stamp
from wholegrain.errors import UserError
from wholegrain.files import memory_bytes, open_file, shown

_UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError)


class ParquetSource:
    """One or more files with the same columns, read a few hundred rows at a time."""

    def __init__(self, files: list[Path], options: SourceOptions) -> None:
        self.files = files
        with _opened(files[0]) as first:
            schema = first.schema_arrow
        self.columns = Columns.find(schema.names, options, shown(files[0]))
        self.read = self.columns.used() + (["regions"] if "regions" in schema.names else [])
        image = schema.field(self.columns.image).type
        named = pa.types.is_string(image) or pa.types.is_large_string(image)
        self.inside = InsideFolder.of(files[0].parent, options, self._names() if named else ())

    def _names(self) -> Iterator[object]:
        for path in self.files:
            for _, row in _rows(path, [self.columns.image]):
                yield row.get(self.columns.image)

    def __iter__(self) -> Iterator[RawSample]:
        for path in self.files:
            for number, row in _rows(path, self.read):
                yield sample_of(row, self.columns, self.inside, path.name, f"{shown(path)}, row {number}")

    def fingerprint(self) -> list[str]:
        return stamp(*self.files)


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    with os.fdopen(open_file(path, "give another source"), "rb") as file:
        try:
            opened = pq.ParquetFile(file)
            largest = max((opened.metadata.row_group(n).total_byte_size for n in range(opened.metadata.num_row_groups)), default=0)
        except _UNREADABLE as error:
            raise UserError(f"{shown(path)} is not a parquet file ({_first(error)}); give another source") from error
        if not 0 <= largest <= memory_bytes():
            raise UserError(f"{shown(path)} says that a part of it unpacks to {largest:,} bytes, more than this machine has; fetch it again")
        yield opened


def _rows(path: Path, columns: list[str]) -> Iterator[tuple[int, dict[str, object]]]:
    """Rows with their numbers, from 1."""
    number = 0
    with _opened(path) as opened:
        batches = opened.iter_batches(batch_size=256, columns=columns)
        while True:
            try:
                batch = next(batches, None)
                rows = batch.to_pylist() if batch is not None else None
            except _UNREADABLE as error:
                raise UserError(f"{shown(path)} cannot be read behind row {number} ({_first(error)}); fetch it again") from error
            if rows is None:
                return
            for row in rows:
                number += 1
                yield number, row


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__


def sample_of(
    row: Mapping[str, object], columns: Columns, inside: InsideFolder, source: str, where: str, name_of: Callable[[object], object] = str
) -> RawSample:
    """The sample of a row whose image is bytes, ``{"bytes": …, "path": …}`` or a path."""
    value = row.get(columns.image)
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    try:
        label = columns.label_of(row, name_of)
        captions, split = columns.texts(row, source, label), columns.split_of(row)
        if not value or not isinstance(value, bytes | str):
            raise WrongValueError(f"the column {columns.image!r} holds no image")
    except WrongValueError as problem:
        return RawSample(b"", (), "", where=where, problem=str(problem))
    image = value if isinstance(value, bytes) else inside(value, where)
    return RawSample(image, captions, split, label, regions_of(row.get("regions"), where), where)
