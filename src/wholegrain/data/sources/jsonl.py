"""JSON lines: one object an image, with ``caption`` or ``captions`` (strings, or objects with text and role), and ``regions``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path

from wholegrain.data.sources.columns import Columns, WrongValueError, regions_of
from wholegrain.data.sources.lines import byte_lines
from wholegrain.data.sources.sample import InsideFolder, RawSample, SourceOptions, stamp
from wholegrain.errors import UserError
from wholegrain.files import parse_json, shown
from wholegrain.structure import StructureError


class JsonlSource:
    """The fields of the first 64 objects decide which of them are read; a line that is not an object is skipped and listed."""

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self.path = path
        first = [row for _, row in islice(self._rows(), 64) if row is not None]
        if not first:
            raise UserError(
                f'{shown(path)} holds no JSON object; it needs one a line, such as {{"image": "a.jpg", "caption": "…"}}, in UTF-8'
            )
        self.columns = Columns.find(list(dict.fromkeys(chain(*first))), options, shown(path))
        self.inside = InsideFolder.of(path.parent, options, (row.get(self.columns.image) for _, row in self._rows() if row))

    def _rows(self) -> Iterator[tuple[int, dict[str, object] | None]]:
        for number, line in enumerate(byte_lines(self.path), 1):
            if line.strip():
                try:
                    yield number, parse_json(line, dict)
                except StructureError:
                    yield number, None

    def __iter__(self) -> Iterator[RawSample]:
        for number, row in self._rows():
            where = f"{shown(self.path)}, line {number}"
            try:
                yield self._sample(row, where)
            except WrongValueError as problem:
                yield RawSample(b"", (), "", where=where, problem=str(problem))

    def _sample(self, row: Mapping[str, object] | None, where: str) -> RawSample:
        c = self.columns
        if row is None:
            raise WrongValueError("the line is not a JSON object")
        name = row.get(c.image)
        if not isinstance(name, str) or not name:
            raise WrongValueError(f"the field {c.image!r} names no image")
        label = c.label_of(row)
        captions = c.texts(row, self.path.name, label)
        return RawSample(self.inside(name, where), captions, c.split_of(row), label, regions_of(row.get("regions"), where), where)

    def fingerprint(self) -> list[str]:
        return stamp(self.path)
