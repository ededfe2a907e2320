"""Sidecars: tables of what was made later, beside records that never change, joined to them by key and caption id."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wholegrain.data.index import plain_names
from wholegrain.data.record import Caption, GeneratedCaption, HardPositive, Negative, Twin
from wholegrain.errors import UserError
from wholegrain.files import UnreadableError, aside, disk_errors, parse_json, read_parquet
from wholegrain.structure import JsonTable, StructureError
from wholegrain.suggest import closest

SidecarRow: TypeAlias = Negative | Twin | HardPositive | GeneratedCaption | tuple[str, str]
_EDIT = pa.struct([("start", pa.int32()), ("end", pa.int32()), ("old", pa.string()), ("new", pa.string())])
_GROUP = 2**16  # rows
_MADE = b"wholegrain"
_ADVICE = "make it again with wholegrain enrich, or take it away"


def _schema(*text: str, **other: pa.DataType) -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in text] + list(other.items()))


SIDECARS: dict[str, pa.Schema] = {
    "captions": _schema("key", "caption", "role", "text", "source", "model", "prompt", "version", seed=pa.int64()),
    "negatives": _schema("key", "caption", "kind", "text", "source", edits=pa.list_(_EDIT)),
    "twins": _schema("item", "kind", "split", keys=pa.list_(pa.string()), captions=pa.list_(pa.string())),
    "hard_positives": _schema("item", "kind", "key", "negative", "split", captions=pa.list_(pa.string())),
    "truths": _schema("caption", "key"),
}
"""Name of a sidecar -> its columns. ``truths`` names further images (key) of which a caption (id) is true."""


class _Joined:
    """Rows of a table under the name that some of its columns make: found by search, so that millions of them cost little."""

    def __init__(self, table: pa.Table, *columns: str) -> None:
        parts = [table[name].to_pylist() for name in columns]
        joined = [" ".join(row) for row in zip(*parts, strict=True)]
        names = np.array(joined, dtype="S") if joined else np.array([], dtype="S1")
        order = np.argsort(names, kind="stable")
        self.table = table.take(pa.array(order)).combine_chunks() if len(order) else table
        self.names, self._starts = np.unique(names[order], return_index=True)
        self._ends = np.append(self._starts[1:], len(names))

    def rows(self, *values: str) -> list[JsonTable]:
        """The rows under a name, in the order in which they were written."""
        name = " ".join(values).encode()
        place = int(np.searchsorted(self.names, name))
        if place == len(self.names) or self.names[place] != name:
            return []
        start, end = int(self._starts[place]), int(self._ends[place])
        return self.table.slice(start, end - start).to_pylist()


class NegativeRows(Mapping[tuple[str, str], tuple[Negative, ...]]):
    """(key, caption id) -> negatives. Objects are made only for those asked for."""

    def __init__(self, table: pa.Table) -> None:
        self._joined = _Joined(table, "key", "caption")

    def __getitem__(self, pair: tuple[str, str]) -> tuple[Negative, ...]:
        rows = self._joined.rows(*pair)
        if not rows:
            raise KeyError(pair)
        return tuple(Negative(**{**row, "edits": tuple(tuple(edit.values()) for edit in row["edits"] or ())}) for row in rows)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for name in self._joined.names:
            key, caption = name.decode().split(" ")
            yield key, caption

    def __len__(self) -> int:
        return len(self._joined.names)


class CaptionRows:
    """Key -> generated captions. Objects are made only for those asked for."""

    def __init__(self, table: pa.Table) -> None:
        self._joined = _Joined(table.select(["key", "caption", "role", "text", "source"]), "key")

    def of(self, key: str) -> tuple[Caption, ...]:
        """The generated captions of a record, in the order in which they were written; mostly none."""
        return tuple(Caption(row["caption"], row["text"], row["role"], row["source"]) for row in self._joined.rows(key))

    def __len__(self) -> int:
        """Number of generated captions."""
        return self._joined.table.num_rows

    @property
    def roles(self) -> dict[str, int]:
        """Role -> number of captions."""
        counted = self._joined.table["role"].value_counts().to_pylist()
        return {entry["values"]: entry["counts"] for entry in counted}


def read_sidecar(path: Path, name: str) -> pa.Table:
    """A sidecar with its own columns, every value of its type; keys and ids are plain words.

    Raises:
        UserError: it is damaged, or lacks a column or a value.
    """
    schema = pa.schema([field.with_nullable(field.name == "edits") for field in SIDECARS[name]])
    table = read_parquet(path, schema, _ADVICE)

    def refuse(what: str) -> UnreadableError:
        return UnreadableError(path, what, _ADVICE)

    words = [table[column] for column in ("key", "caption") if column in schema.names]
    for field in schema:
        column = table[field.name]
        if pa.types.is_list(field.type):
            inside = pc.call_function("list_flatten", [column])
            parts = inside.flatten() if field.name == "edits" else [inside]
            if field.name != "edits" and (pc.call_function("list_value_length", [column]).to_numpy() != 2).any():
                raise refuse(f"has a row without two {field.name}")
            if any(part.null_count for part in parts):
                raise refuse(f"has no value in some row of the column {field.name!r}")
            if field.name == "keys":
                words.append(inside)
    for column in words:
        plain_names(column, refuse)
    return table


def table_of(name: str, rows: Iterable[SidecarRow]) -> pa.Table:
    """Rows of a sidecar as a table with the sidecar's columns."""
    return pa.Table.from_pylist([_plain(row) for row in rows], _known(name))


def write_sidecar(folder: Path | str, name: str, rows: Iterable[SidecarRow]) -> int:
    """Writes a sidecar of a prepared data set, aside first, with the same column types whatever the rows are.

    Args:
        folder: the data set.
        name: ``captions``, ``negatives``, ``twins``, ``hard_positives`` or ``truths``.
        rows: read once, so they may be made on the way; a truth is (caption id, key).

    Returns:
        the number of rows written.
    """
    _known(name)
    return write_tables(folder, name, (table_of(name, group) for group in _grouped(rows)))


def write_tables(folder: Path | str, name: str, tables: Iterable[pa.Table], made: Mapping[str, object] | None = None) -> int:
    """:func:`write_sidecar` for rows that are tables already. However the rows are cut into tables, the file is the same.

    Args:
        folder, name: as there.
        tables: with the sidecar's columns; read once.
        made: how the rows were made, which :func:`made_by` gives back.

    Returns:
        the number of rows written.
    """
    schema, target = _known(name), Path(folder) / f"{name}.parquet"
    count, waiting = 0, schema.empty_table()
    if made is not None:
        schema = schema.with_metadata({_MADE: json.dumps(made, sort_keys=True, ensure_ascii=False).encode()})
    with disk_errors(folder), aside(target) as part, pq.ParquetWriter(part, schema, compression="zstd") as writer:

        def write(table: pa.Table) -> None:
            writer.write_table(table.combine_chunks().cast(schema), row_group_size=_GROUP)

        for table in tables:
            count += table.num_rows
            waiting = pa.concat_tables([waiting, table.replace_schema_metadata(None)])
            if whole := waiting.num_rows // _GROUP * _GROUP:
                write(waiting.slice(0, whole))
                waiting = waiting.slice(whole)
        if waiting.num_rows or not count:
            write(waiting)
    return count


def made_by(path: Path) -> dict[str, object] | None:
    """How a sidecar's rows were made, as its writer said; ``None`` for one that does not say."""
    made = (read_parquet(path, pa.schema([]), _ADVICE).schema.metadata or {}).get(_MADE)
    try:
        return parse_json(made, dict) if made else None
    except StructureError:
        return None


def _known(name: str) -> pa.Schema:
    if name not in SIDECARS:
        raise UserError(f"there is no sidecar {name!r}; {closest(name, SIDECARS)}")
    return SIDECARS[name]


def _grouped(rows: Iterable[SidecarRow]) -> Iterator[list[SidecarRow]]:
    group: list[SidecarRow] = []
    for row in rows:
        group.append(row)
        if len(group) == _GROUP:
            yield group
            group = []
    yield group


def _plain(row: SidecarRow) -> dict[str, object]:
    if isinstance(row, tuple):
        return {"caption": row[0], "key": row[1]}
    values = dict(vars(row))
    if "edits" in values:
        values["edits"] = [dict(zip(("start", "end", "old", "new"), edit, strict=True)) for edit in values["edits"]]
    return values
