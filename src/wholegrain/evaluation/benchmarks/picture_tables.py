"""Tables with the pictures in them, as Hugging Face's ``datasets`` publishes them: parquet shards, or the Arrow files of ``save_to_disk``.

A picture is a struct ``{bytes, path}`` (``datasets.Image``), or plain bytes. Rows are read without their pictures; a picture is read when it is
asked for, out of the part of its table (a parquet row group, an Arrow record batch) that holds it, of which the last few are kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock

import pyarrow as pa
import pyarrow.parquet as pq

from wholegrain.errors import UserError
from wholegrain.evaluation.benchmarks.files import AGAIN, Folder, Row
from wholegrain.evaluation.benchmarks.items import Picture
from wholegrain.files import UnreadableError, memory_bytes, open_file

ENDS = (".parquet", ".arrow")
_UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, IndexError, OverflowError, MemoryError)
_LOCK = Lock()
"""Pictures are hashed by several threads, and a part is read once."""


def picture_tables(place: Folder, what: str) -> list[Path]:
    """The tables of a folder, at any depth, in the order of their names: its parquet files, or its Arrow files where it has none of those.

    Raises:
        UserError: when there is none.
    """
    for end in ENDS:
        if found := sorted(place.path.rglob(f"*{end}")):
            return found
    raise UserError(f"{place.path} has no parquet or Arrow file with {what}; get them from {place.source}.")


def table_rows(path: Path, texts: Sequence[str], pictures: Sequence[str]) -> list[tuple[Row, tuple[Picture, ...]]]:
    """The rows of a table: the columns ``texts``, and the pictures of the columns ``pictures``, which are not read.

    Raises:
        UserError: when it is no table, or lacks a column.
    """
    columns = [*texts, *pictures]
    names, groups = _schema(path)
    missing = [name for name in columns if name not in names]
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}, only {', '.join(names)}; check that it is the right file.")
    rows = [row for group in range(groups) for row in _part(path, tuple(texts), group).to_pylist()]
    return [(row, tuple(Picture(path, cell=(name, number)) for name in pictures)) for number, row in enumerate(rows)]


def several_rows(
    paths: Iterable[Path], texts: Sequence[str], pictures: Sequence[str]
) -> list[tuple[Row, tuple[Picture, ...]]]:
    """:func:`table_rows` of several shards, one after the other."""
    return [row for path in paths for row in table_rows(path, texts, pictures)]


def read_cell(path: Path, column: str, row: int) -> bytes:
    """The bytes of the picture in a row (from 0) of a column.

    Raises:
        UserError: when the table cannot be read there, or holds no picture.
    """
    changed = os.stat(path).st_mtime_ns
    with _LOCK:
        first = 0
        for group, count in enumerate(_sizes(path, changed)):
            if row < first + count:
                value = _kept(path, changed, column, group)[row - first].as_py()
                break
            first += count
        else:
            raise UserError(f"{path} has {first:,} rows, so there is no row {row + 1:,}; {AGAIN}.")
    value = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(value, bytes) or not value:
        raise UserError(f"{path}, row {row + 1:,}: the column {column!r} holds no picture; {AGAIN}.")
    return value


def _schema(path: Path) -> tuple[list[str], int]:
    """Names of the columns, and of how many parts the table is."""
    if path.suffix == ".parquet":
        with os.fdopen(open_file(path, AGAIN), "rb") as file:
            try:
                with pq.ParquetFile(file) as opened:
                    return opened.schema_arrow.names, opened.metadata.num_row_groups
            except _UNREADABLE as error:
                raise _not_a_table(path, error) from None
    return _arrow(path, os.stat(path).st_mtime_ns).schema.names, 1


@lru_cache(maxsize=64)
def _sizes(path: Path, changed: int) -> tuple[int, ...]:
    """Rows of each part."""
    if path.suffix != ".parquet":
        return (_arrow(path, changed).num_rows,)
    with os.fdopen(open_file(path, AGAIN), "rb") as file:
        try:
            with pq.ParquetFile(file) as opened:
                return tuple(opened.metadata.row_group(n).num_rows for n in range(opened.metadata.num_row_groups))
        except _UNREADABLE as error:
            raise _not_a_table(path, error) from None


@lru_cache(maxsize=4)
def _kept(path: Path, changed: int, column: str, group: int) -> pa.ChunkedArray:
    return _part(path, (column,), group)[column]


def _part(path: Path, columns: tuple[str, ...], group: int) -> pa.Table:
    """Columns of a part, their values checked."""
    if path.suffix != ".parquet":
        return _arrow(path, os.stat(path).st_mtime_ns).select(list(columns))
    with os.fdopen(open_file(path, AGAIN), "rb") as file:
        try:
            with pq.ParquetFile(file) as opened:
                size = opened.metadata.row_group(group).total_byte_size
                if not 0 <= size <= memory_bytes():
                    raise UnreadableError(path, f"says that a part of it unpacks to {size:,} bytes, more than this machine has", AGAIN)
                table = opened.read_row_group(group, columns=list(columns))
            table.validate(full=True)
        except _UNREADABLE as error:
            raise _not_a_table(path, error) from None
    return table


@lru_cache(maxsize=8)
def _arrow(path: Path, changed: int) -> pa.Table:
    """An Arrow file, mapped and not read: its pages come when a row is asked for."""
    os.close(open_file(path, AGAIN))
    try:
        table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
        table.validate(full=True)
    except _UNREADABLE as error:
        raise _not_a_table(path, error) from None
    return table


def _not_a_table(path: Path, error: Exception) -> UserError:
    if isinstance(error, UserError):
        return error
    first = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
    return UnreadableError(path, f"is not a table of the right kind ({first})", AGAIN)
