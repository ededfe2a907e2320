"""JSON lines: one object an image, with ``caption`` or ``captions`` (strings, or objects with text and role), and ``regions``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from wholegrain.data.sources.columns import Columns, regions_of
from wholegrain.data.sources.sample import InsideFolder, RawSample, SourceOptions, stamp
from wholegrain.errors import UserError


class JsonlSource:
    """The fields of the first 64 objects decide which of them are read; a line that is not an object is skipped and listed."""

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self.path = path
        first = [row for _, row in islice(self._rows(), 64) if row is not None]
        if not first:
            raise UserError(f'{path} holds no JSON object; it needs one a line, such as {{"image": "a.jpg", "caption": "…"}}')
        self.columns = Columns.find(list(dict.fromkeys(chain(*first))), options, str(path))
        self.inside = InsideFolder(options.image_root or path.parent)

    def _rows(self) -> Iterator[tuple[int, dict[str, Any] | None]]:
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError:
                    row = None
                yield number, row if isinstance(row, dict) else None

    def __iter__(self) -> Iterator[RawSample]:
        c = self.columns
        for number, row in self._rows():
            where = f"{self.path}, line {number}"
            name = row.get(c.image) if row is not None else None
            if row is None or not isinstance(name, str) or not name:
                problem = "the line is not a JSON object" if row is None else f"the field {c.image!r} names no image"
                yield RawSample(b"", (), c.options.split, where=where, problem=problem)
                continue
            label = c.label_of(row)
            captions = c.texts(row, self.path.name, label)
            regions = regions_of(row.get("regions"), where)
            yield RawSample(self.inside(name, where), captions, c.split_of(row), label, regions, where)

    def fingerprint(self) -> list[str]:
        return stamp(self.path)
