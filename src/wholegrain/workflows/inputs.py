"""What commands are given to encode: a folder of pictures, picture files, or a file of texts."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from wholegrain.data.listing import ListedPicture, list_pictures
from wholegrain.data.pictures import SUFFIXES
from wholegrain.data.sources.lines import text_lines
from wholegrain.errors import UserError
from wholegrain.files import shown
from wholegrain.suggest import closest

_TEXT_COLUMNS = ("text", "caption", "title", "sentence")


def pictures_of(words: Sequence[str]) -> dict[str, ListedPicture]:
    """Name -> picture of what a command is given: one folder, prepared data set or table (:func:`~wholegrain.data.listing.list_pictures`), or
    picture files.

    Raises:
        UserError: a file is not there, or is no picture by its name; a folder that is not alone; what holds none.
    """
    if not words:
        raise UserError("No pictures are given; give a folder of pictures, a prepared data set, a table, or picture files.")
    for word in words if len(words) > 1 else ():
        if not word.lower().endswith(SUFFIXES):
            raise UserError(f"{shown(word)} is no picture by its name ({', '.join(SUFFIXES)}); give one folder or table, or picture files.")
    return {picture.name: picture for word in words for picture in list_pictures(word).pictures}


def is_texts(words: Sequence[str]) -> bool:
    """Whether a file of texts is meant, and not pictures."""
    return len(words) == 1 and words[0].lower().endswith((".txt", ".csv", ".tsv"))


def read_texts(path: Path | str, column: str = "") -> list[str]:
    """The texts of a file in UTF-8: the lines of a ``.txt``, one column of a ``.csv`` or ``.tsv``; empty ones are left out.

    Args:
        column: by default the only one, or the one named text, caption, title or sentence.

    Raises:
        UserError: the file cannot be read, has no such column, or no texts.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{shown(path)} is {'no file' if path.exists() else 'not there'}; give a file of texts.")
    if path.suffix.lower() == ".txt":
        texts = [line.strip() for line in text_lines(path)]
    else:
        try:
            texts = _column(path, column)
        except csv.Error as error:
            raise UserError(f"{shown(path)} cannot be read as a table ({error}); check its quotes.") from None
    texts = [text for text in texts if text]
    if not texts:
        raise UserError(f"{shown(path)} holds no texts; give one a line.")
    return texts


def _column(path: Path, column: str) -> list[str]:
    rows = csv.DictReader(text_lines(path), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    names = list(rows.fieldnames or ())
    known = [name for name in names if name.strip().lower() in _TEXT_COLUMNS]
    chosen = column or (names[0] if len(names) == 1 else known[0] if len(known) == 1 else "")
    if chosen not in names:
        what = f"no column {column!r}; {closest(column, names)}" if column else f"the columns {', '.join(names)}; name one by --column."
        raise UserError(f"{shown(path)} has {what}")
    return [(row.get(chosen) or "").strip() for row in rows]
