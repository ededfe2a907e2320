"""``index.parquet``: where in which shard every record lies. Every value of it is looked at before a byte is read by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from wholegrain.data.manifest import SHARD_NAME, Manifest
from wholegrain.data.pictures import MOST_BYTES
from wholegrain.data.shards import INDEX_SCHEMA
from wholegrain.files import UnreadableError, read_parquet, shown

_PLAIN = np.zeros(256, dtype=bool)
_PLAIN[[ord(letter) for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"]] = True
_SCHEMA = pa.schema([field.with_nullable(field.name == "label") for field in INDEX_SCHEMA])
_AGAIN = "prepare the data set again"


def read_index(path: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    """The columns of an index as arrays, in its order.

    Texts that repeat are numbers: ``split`` and ``shard`` count in ``split_names`` and ``shard_names``. ``key`` is bytes of fixed width, not
    Python strings: 20 bytes a key, and reading them dirties no page that forked workers share. ``order`` sorts keys, ``sorted_key`` are
    they.

    Raises:
        UserError: it is not there or damaged, says what cannot be, or belongs to another manifest.
    """
    table = read_parquet(path, _SCHEMA, _AGAIN)

    def refuse(what: str) -> UnreadableError:
        return UnreadableError(path, what, _AGAIN)

    columns: dict[str, np.ndarray] = {}
    for name in table.column_names:
        if pa.types.is_integer(table.schema.field(name).type):
            columns[name] = table[name].to_numpy()
    for what in ("image", "json"):
        offset, size = columns[f"{what}_offset"], columns[f"{what}_bytes"]
        if len(table) and not (offset.min() >= 0 and offset.max() < 2**62 and size.min() >= 0 and size.max() <= MOST_BYTES):
            raise refuse(f"has places of {what} that cannot be")
    for name in ("split", "shard"):
        column = table[name].combine_chunks().dictionary_encode()
        column = pa.concat_arrays([column]) if isinstance(column, pa.Array) else column.combine_chunks()
        columns[name] = column.indices.to_numpy()
        columns[f"{name}_names"] = np.array(column.dictionary.to_pylist(), dtype=object)
    for name in columns["shard_names"]:
        if not SHARD_NAME.fullmatch(name):
            raise refuse(f"names the shard {shown(name)!r}, which is no plain name of a .tar file")
    counted = dict(zip(columns["split_names"], np.bincount(columns["split"], minlength=1).tolist(), strict=False))
    stated = {name: counts["images"] for name, counts in manifest["splits"].items() if counts["images"]}
    if counted != stated:
        raise refuse("does not go with manifest.json: they differ in the images of each split")
    columns["key"] = plain_names(table["key"], refuse)
    columns["order"] = np.argsort(columns["key"], kind="stable")
    columns["sorted_key"] = columns["key"][columns["order"]]
    if (columns["sorted_key"][1:] == columns["sorted_key"][:-1]).any():
        raise refuse("has a key twice")
    return columns


def plain_names(column: pa.ChunkedArray, refuse: Callable[[str], Exception]) -> np.ndarray:
    """Keys as bytes of fixed width, made of letters, digits, ``_``, ``.`` and ``-`` alone, at most 80 of them."""
    texts = column.combine_chunks()
    texts = texts if isinstance(texts, pa.Array) else pa.concat_arrays(texts.chunks)
    _, offsets, data = texts.buffers()
    place_N = np.frombuffer(offsets, dtype=np.int32)[texts.offset : texts.offset + len(texts) + 1] if len(texts) else np.zeros(1, np.int32)
    width_N = np.diff(place_N)
    if not len(texts):
        return np.array([], dtype="S1")
    letter_M = np.frombuffer(data, dtype=np.uint8)[place_N[0] : place_N[-1]] if data is not None else np.array([], np.uint8)
    if width_N.min() < 1 or width_N.max() > 80 or not _PLAIN[letter_M].all():
        raise refuse("has a key that is not made of at most 80 letters, digits, '_', '.' and '-'")
    if width_N.min() == width_N.max():
        return np.frombuffer(letter_M.tobytes(), dtype=f"S{width_N[0]}")
    return np.array(texts.to_pylist(), dtype="S")
