"""CSV and TSV: one row a caption or one row an image; rows of one photo that follow each other are captions of one sample."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from wholegrain.data.sources.columns import Columns
from wholegrain.data.sources.sample import InsideFolder, RawSample, SourceOptions, stamp
from wholegrain.errors import UserError


class TableSource:
    """A table with a header line. Commas or tabs, whichever the header has more of.

    Rows of one photo that do not follow each other are joined later, when equal images are merged.
    """

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self.path = path
        header = next(self._lines(), (0, []))[1]
        if not header:
            raise UserError(f"{path} is empty; it needs a header line such as: filepath,caption")
        self.columns = Columns.find(header, options, str(path))
        self.inside = InsideFolder(options.image_root or path.parent)

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                first = file.readline()
                file.seek(0)
                reader = csv.reader(file, delimiter="\t" if first.count("\t") > first.count(",") else ",")
                for cells in reader:
                    if cells:
                        yield reader.line_num, cells
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error
        except csv.Error as error:
            raise UserError(f"{self.path} cannot be read as a table ({error}); check its quotes") from error

    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        lines = self._lines()
        _, header = next(lines)
        for number, cells in lines:
            yield number, dict(zip(header, cells, strict=False))

    def __iter__(self) -> Iterator[RawSample]:
        c = self.columns
        for (name, split, label), rows in groupby(
            self._rows(), lambda r: (r[1].get(c.image), c.split_of(r[1]), c.label_of(r[1]))
        ):
            group = list(rows)
            where = f"{self.path}, line {group[0][0]}"
            if not name:
                yield RawSample(b"", (), split, where=where, problem="the row names no image")
                continue
            texts = [text for _, row in group for text in c.texts(row, self.path.name, label)]
            captions = tuple(texts) if c.captions else tuple(dict.fromkeys(texts))
            yield RawSample(self.inside(name, where), captions, split, label, where=where)

    def fingerprint(self) -> list[str]:
        return stamp(self.path)
