"""CSV and TSV: one row a caption or one row an image; rows of one photo that follow each other are captions of one sample."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import chain, groupby
from pathlib import Path

from wholegrain.data.sources.columns import Columns
from wholegrain.data.sources.lines import text_lines
from wholegrain.data.sources.sample import MOST_TEXT, InsideFolder, RawSample, SourceOptions, stamp
from wholegrain.errors import UserError
from wholegrain.files import shown

_Row = tuple[int, dict[str, str], str]  # its line, its cells, what is wrong with it


class TableSource:
    """A table with a header line. Commas or tabs, whichever the header has more of.

    Rows of one photo that do not follow each other are joined later, when equal images are merged. A row with more cells than the
    header is listed as broken: most likely its caption has commas and no quotes.
    """

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self.path = path
        header = next(self._lines(), (0, []))[1]
        if not header:
            raise UserError(f"{shown(path)} is empty; it needs a header line such as: filepath,caption")
        if any("\0" in name for name in header):
            raise UserError(f"{shown(path)} has bytes of zero in its header, as UTF-16 has; save it as UTF-8")
        self.columns = Columns.find(header, options, shown(path))
        self.inside = InsideFolder.of(path.parent, options, (row.get(self.columns.image) for _, row, _ in self._rows()))

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        csv.field_size_limit(MOST_TEXT)
        lines = text_lines(self.path)
        first = next(lines, "")
        try:
            delimiter = "\t" if first.count("\t") > first.count(",") else ","
            reader = csv.reader(chain((first,), lines), delimiter=delimiter)
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
        except csv.Error as error:
            raise UserError(f"{shown(self.path)} cannot be read as a table ({error}); check its quotes") from error

    def _rows(self) -> Iterator[_Row]:
        lines = self._lines()
        _, header = next(lines, (0, []))
        for number, cells in lines:
            extra = [cell for cell in cells[len(header) :] if cell.strip()]
            problem = f"the row has {len(cells)} cells, the header {len(header)}; put quotes around texts with commas" if extra else ""
            yield number, dict(zip(header, cells, strict=False)), problem

    def _photo(self, row: _Row) -> tuple[str | None, str, str | None]:
        """Rows that follow each other with an equal one are one sample."""
        number, cells, problem = row
        c = self.columns
        return (str(number), problem, None) if problem else (cells.get(c.image), c.split_of(cells), c.label_of(cells))

    def __iter__(self) -> Iterator[RawSample]:
        c = self.columns
        for (name, split, label), rows in groupby(self._rows(), self._photo):
            group = list(rows)
            where = f"{shown(self.path)}, line {group[0][0]}"
            if group[0][2] or not name:
                yield RawSample(b"", (), "", where=where, problem=group[0][2] or "the row names no image")
                continue
            texts = [text for _, row, _ in group for text in c.texts(row, self.path.name, label)]
            captions = tuple(texts) if c.captions else tuple(dict.fromkeys(texts))
            yield RawSample(self.inside(name, where), captions, split, label, where=where)

    def fingerprint(self) -> list[str]:
        return stamp(self.path)
