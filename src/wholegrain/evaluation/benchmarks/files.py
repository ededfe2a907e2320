"""Where a benchmark's files are found, and what is said when they are not.

A picture named in an annotation is looked for, in this order: in ``images.json`` of the benchmark's folder (name -> place, relative to
that folder), under the benchmark's folder and the further image folders by its relative path, and there by its bare name at any depth.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from wholegrain import files
from wholegrain.errors import UserError
from wholegrain.structure import JsonTable, StructureError

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
AGAIN = "get it again"
MOST_BYTES = 2**32
"""Of an annotation; the largest are lists of a million captions."""
Made = TypeVar("Made")
Row: TypeAlias = JsonTable
"""Of somebody else's file; :func:`of_its_form` says what is not of the form that its reader knows."""


class Folder:
    """A benchmark's folder, and further folders with pictures.

    Args:
        path: the folder that the user points to.
        source: where the benchmark is had from, for the sentences that say what is missing.
        images: further folders to look for pictures in.
    """

    def __init__(self, path: Path | str, source: str, images: Sequence[Path | str] = ()) -> None:
        self.path, self.source = Path(path), source
        self.images = tuple(Path(folder) for folder in images)
        for folder in (self.path, *self.images):
            if not folder.is_dir():
                raise UserError(f"{folder} is not a folder; get the benchmark from {source}, and point to its folder.")

    def find(self, *names: str) -> Path | None:
        """The first of these files that is there, directly in the folder or in its ``data`` folder."""
        places = [root / name for name in names for root in (self.path, self.path / "data")]
        return next((place for place in places if place.is_file()), None)

    def need(self, *names: str) -> Path:
        """:meth:`find`, or a :class:`UserError` that says where to get it."""
        found = self.find(*names)
        if found is None:
            raise UserError(f"{self.path} has no {' or '.join(names)}; get it from {self.source} and put it there.")
        return found

    def several(self, names: Iterable[str]) -> tuple[dict[str, Path], tuple[str, ...]]:
        """name -> file of those that are there, and a note on those that are not; none at all is a :class:`UserError`."""
        names = list(names)
        found = {name: place for name in names if (place := self.find(name)) is not None}
        if not found:
            raise UserError(f"{self.path} has none of {', '.join(names)}; get them from {self.source} and put them there.")
        missing = [name for name in names if name not in found]
        return found, ((f"not there: {', '.join(missing)} (from {self.source})",) if missing else ())

    @cached_property
    def _listed(self) -> dict[str, str]:
        place = self.path / "images.json"
        return read_json(place, dict[str, str]) if os.path.lexists(place) else {}

    @cached_property
    def _by_name(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for root in (self.path, *self.images):
            for here, _, names in os.walk(root):
                for name in names:
                    if name.lower().endswith(PICTURES):
                        found.setdefault(name, Path(here, name))
        return found

    def picture(self, name: str) -> Path | None:
        """The file of the picture that an annotation calls ``name`` (an address counts by its last part); ``None`` if not there."""
        if name in self._listed:
            place = self.path / self._listed[name]
            return place if place.is_file() else None
        name = name.replace("\\", "/")
        if "://" not in name:
            for root in (self.path, self.path / "images", *self.images):
                if (root / name).is_file():
                    return root / name
        return self._by_name.get(name.rsplit("/", 1)[-1])

    def kept(self, found: Iterable[tuple[str, Made | None]], what: str = "items") -> tuple[tuple[Made, ...], tuple[str, ...]]:
        """The items whose pictures were found, and a note on those that were not.

        Args:
            found: (name of the picture, the item or ``None``).

        Raises:
            UserError: when no picture was found at all.
        """
        kept, lost, total = [], [], 0
        for name, item in found:
            total += 1
            (lost.append(name) if item is None else kept.append(item))
        if total and not kept:
            raise UserError(
                f"No picture of the benchmark is under {self._roots} ({lost[0]} is looked for); get them: {self.source}."
            )
        note = f"{len(lost):,} of {total:,} {what} left out, their pictures are not there ({lost[0]}, …)" if lost else ""
        return tuple(kept), (note,) if note else ()

    @property
    def _roots(self) -> str:
        return " or ".join(str(folder) for folder in (self.path, *self.images))


def read_json(path: Path, kind: type[Made]) -> Made:
    """What a JSON file holds, as a value of a type (:func:`wholegrain.structure.structure`).

    Raises:
        UserError: when it is not JSON, or holds something else.
    """
    return files.read_json(path, kind, AGAIN, most=MOST_BYTES)


def read_rows(path: Path, *, lines: bool = False) -> list[Row]:
    """The rows of a CSV, TSV, JSONL or JSON file (a list, or an object whose values are the rows) as dictionaries.

    Args:
        lines: the file is JSONL whatever its name says.

    Raises:
        UserError: when a line cannot be read, or the file holds something else.
    """
    if path.suffix in (".csv", ".tsv"):
        text = files.read_text(path, AGAIN, most=MOST_BYTES)
        try:
            return list(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix == ".tsv" else ","))
        except csv.Error as error:
            raise UserError(f"{path} is not a table ({error}); {AGAIN}.") from None
    if lines or path.suffix == ".jsonl":
        return [row for row in _lines(path) if row is not None]
    rows = read_json(path, object)
    rows = list(rows.values()) if isinstance(rows, dict) else rows
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} is not a table: a list of objects is expected; check that it is the right file.")
    return rows


def _lines(path: Path) -> Iterator[Row | None]:
    for number, line in enumerate(files.read_text(path, AGAIN, most=MOST_BYTES).split("\n"), 1):
        try:
            yield files.parse_json(line, Row) if line.strip() else None
        except StructureError as error:
            raise UserError(f"{path}, line {number}: {error}; mend the line.") from None


@contextmanager
def of_its_form(name: str, folder: Path | None) -> Iterator[None]:
    """Turns what a reader of a benchmark trips over, where a file is not of the form that the benchmark has, into one sentence."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, SyntaxError, ArithmeticError, RecursionError, MemoryError, OSError) as error:
        problem = (str(error).splitlines() or [""])[0][:200]
        raise UserError(
            f"The files of {name} in {folder} are not of the form that it has ({type(error).__name__}: {problem}); get them again."
        ) from error


def field(row: Row, path: Path, *names: str) -> Any:
    """The first of these fields that the row has; a :class:`UserError` names the file and what the row has instead."""
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise UserError(
        f"{path}: a row has no {' or '.join(names)}, only {', '.join(map(str, row))}; check that it is the right file."
    )


def each(
    rows: Sequence[Row], name: Callable[[Row], str], make: Callable[[int, Row], Made | None]
) -> Iterator[tuple[str, Made | None]]:
    """(name of the picture, item or ``None``) of each row, for :meth:`Folder.kept`."""
    return ((name(row), make(number, row)) for number, row in enumerate(rows))
