"""Parquet: an image column of bytes, of ``{bytes, path}``, or of paths; captions as a string or a list of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wholegrain.data.sources.columns import Columns, regions_of
from wholegrain.data.sources.sample import InsideFolder, RawSample, SourceOptions, stamp
from wholegrain.errors import UserError


class ParquetSource:
    """One or more files with the same columns, read a few hundred rows at a time."""

    def __init__(self, files: list[Path], options: SourceOptions) -> None:
        self.files = files
        try:
            names = pq.read_schema(files[0]).names
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{files[0]} is not a parquet file ({error}); give another source") from error
        self.columns = Columns.find(names, options, str(files[0]))
        self.read = self.columns.used() + (["regions"] if "regions" in names else [])
        self.inside = InsideFolder(options.image_root or files[0].parent)

    def __iter__(self) -> Iterator[RawSample]:
        for path in self.files:
            number = 0
            try:
                for batch in pq.ParquetFile(path).iter_batches(batch_size=256, columns=self.read):
                    for row in batch.to_pylist():
                        number += 1
                        yield sample_of(row, self.columns, self.inside, path.name, f"{path}, row {number}")
            except (pa.ArrowException, OSError) as error:
                raise UserError(f"{path} cannot be read behind row {number} ({error}); fetch it again") from error

    def fingerprint(self) -> list[str]:
        return stamp(*self.files)


def sample_of(
    row: dict[str, Any], columns: Columns, inside: InsideFolder, source: str, where: str, name_of: Any = str
) -> RawSample:
    """The sample of a row whose image is bytes, ``{"bytes": …, "path": …}`` or a path."""
    value = row.get(columns.image)
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    label = columns.label_of(row, name_of)
    captions, split = columns.texts(row, source, label), columns.split_of(row)
    if not value or not isinstance(value, bytes | str):
        return RawSample(b"", captions, split, where=where, problem=f"the column {columns.image!r} holds no image")
    image = value if isinstance(value, bytes) else inside(value, where)
    return RawSample(image, captions, split, label, regions_of(row.get("regions"), where), where)
