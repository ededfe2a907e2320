"""Files of vectors with their names, written batch by batch: parquet, NumPy, safetensors, and the CSV that Lightly reads.

* ``.parquet``: the columns ``name`` and ``vector`` (float32, of one length); facts in the table's metadata, under ``wholegrain``.
* ``.npy``: float32 ``[N, D]``, and beside it ``FILE.names.json`` with the names and the facts.
* ``.safetensors``: the tensor ``vectors`` ``[N, D]``; ``names`` and facts as JSON in its metadata. It is written at once, from memory.
* ``.csv``: as ``lightly.utils.io.load_embeddings`` reads it: the columns ``filenames``, ``embedding_0`` to ``embedding_<D-1>``, and ``labels``, all 0,
  as a model knows none. It has no place for the facts.
"""

from __future__ import annotations

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from wholegrain.errors import UserError
from wholegrain.files import aside, disk_errors, keepable, shown, write_json

Facts = Mapping[str, object]


class VectorFile(ABC):
    """A file that is being written."""

    rows = 0

    def add(self, names: Sequence[str], vectors_ND: np.ndarray) -> None:
        """Further rows, float32."""
        self.rows += len(names)
        self._add(names, np.ascontiguousarray(vectors_ND, dtype=np.float32))

    @abstractmethod
    def _add(self, names: Sequence[str], vectors_ND: np.ndarray) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Nothing more comes."""


_ROW_GROUP = 8192


class _Parquet(VectorFile):
    """Rows are gathered to groups of a size that is quick to read."""

    def __init__(self, part: Path, width: int, facts: Facts) -> None:
        vector = pa.list_(pa.float32(), width)
        self._schema = pa.schema([("name", pa.string()), ("vector", vector)], metadata={"wholegrain": json.dumps(facts)})
        self._width, self._writer = width, pq.ParquetWriter(part, self._schema)
        self._names: list[str] = []
        self._vectors: list[np.ndarray] = []

    def _add(self, names: Sequence[str], vectors_ND: np.ndarray) -> None:
        self._names += names
        self._vectors.append(vectors_ND)
        if len(self._names) >= _ROW_GROUP:
            self._write()

    def _write(self) -> None:
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(self._vectors).ravel()), self._width)
        self._writer.write_table(pa.Table.from_arrays([pa.array(self._names, pa.string()), vectors], schema=self._schema))
        self._names, self._vectors = [], []

    def close(self) -> None:
        if self._names:
            self._write()
        self._writer.close()


class _Npy(VectorFile):
    """The header leaves room for any number of rows, and is written again once their number is known."""

    def __init__(self, part: Path, width: int, facts: Facts, beside: Path) -> None:
        self._width, self._facts, self._beside = width, facts, beside
        self._names: list[str] = []
        self._file: IO[bytes] = part.open("wb")
        self._header()

    def _header(self) -> None:
        self._file.seek(0)
        about = {"descr": "<f4", "fortran_order": False, "shape": (self.rows, self._width)}
        np.lib.format.write_array_header_1_0(self._file, about)  # pyright: ignore[reportArgumentType]

    def _add(self, names: Sequence[str], vectors_ND: np.ndarray) -> None:
        self._names += names
        self._file.write(vectors_ND.astype("<f4").tobytes())

    def close(self) -> None:
        self._header()
        self._file.close()
        write_json(self._beside, {**self._facts, "names": self._names})


class _Safetensors(VectorFile):
    def __init__(self, part: Path, width: int, facts: Facts) -> None:
        self._part, self._facts = part, facts
        self._names: list[str] = []
        self._rows = [np.zeros((0, width), np.float32)]

    def _add(self, names: Sequence[str], vectors_ND: np.ndarray) -> None:
        self._names += names
        self._rows.append(vectors_ND)

    def close(self) -> None:
        told = {"names": json.dumps(self._names), "wholegrain": json.dumps(self._facts)}
        save_file({"vectors": np.concatenate(self._rows)}, self._part, told)


class _Csv(VectorFile):
    def __init__(self, part: Path, width: int) -> None:
        self._file = part.open("w", encoding="utf-8", newline="")
        self._rows = csv.writer(self._file)
        self._rows.writerow(["filenames", *(f"embedding_{n}" for n in range(width)), "labels"])

    def _add(self, names: Sequence[str], vectors_ND: np.ndarray) -> None:
        self._rows.writerows([name, *vector_D, 0] for name, vector_D in zip(names, vectors_ND.astype(str), strict=True))

    def close(self) -> None:
        self._file.close()


FORMATS = (".parquet", ".npy", ".safetensors", ".csv")


def check_vector_file(path: Path) -> None:
    """Refuses a name that says no known format, and a place where nothing can be written, before any work is done."""
    if path.suffix not in FORMATS:
        raise UserError(f"{shown(path)} ends in none of {', '.join(FORMATS)}; name the file by the format that it is to have.")
    if path.is_dir():
        raise UserError(f"{shown(path)} is a folder; give the name of a file.")
    keepable(path)


@contextmanager
def vector_file(path: Path, width: int, facts: Facts) -> Iterator[VectorFile]:
    """A file to add rows to, which is there, whole, when the block ends well.

    Args:
        path: its ending is the format.
        width: of each vector.
        facts: fit for JSON, to be kept with them.
    """
    check_vector_file(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(path), aside(path) as part:
        if path.suffix == ".parquet":
            writer: VectorFile = _Parquet(part, width, facts)
        elif path.suffix == ".npy":
            writer = _Npy(part, width, facts, names_beside(path))
        elif path.suffix == ".csv":
            writer = _Csv(part, width)
        else:
            writer = _Safetensors(part, width, facts)
        yield writer
        writer.close()


def names_beside(path: Path) -> Path:
    """Where the names of a ``.npy`` file's rows stand."""
    return path.with_name(f"{path.name}.names.json")
