"""A user's own questions: a JSONL, JSON, CSV or TSV file of picture, question and answer or answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wholegrain.data.pictures import read_rgb
from wholegrain.downstream.answering.balance import Question
from wholegrain.errors import UserError
from wholegrain.evaluation.benchmarks.files import read_rows
from wholegrain.files import sha256, shown
from wholegrain.structure import JsonTable

MEND = "correct it, or take the row out"
LONGEST = 2000
"""Characters of a question or an answer."""


class FolderPictures:
    """Pictures of a folder by their path in it, as named in files of questions.

    Args:
        folder: of the pictures.
        files: of questions.

    Attributes:
        content_hash: of the files and of the bytes of all pictures that they name.
    """

    def __init__(self, folder: Path, files: Sequence[Path], keys: Sequence[str]) -> None:
        self.folder = folder
        self.content_hash = " ".join(sha256(path, MEND) for path in (*files, *(folder / key for key in sorted(set(keys)))))
        if len(self.content_hash) > 64:
            from wholegrain.files import digest

            self.content_hash = digest(self.content_hash)

    def pixels(self, key: str) -> np.ndarray:
        """uint8 RGB ``[H, W, 3]``. Raises :class:`UserError` for a picture that is not there or cannot be read."""
        return read_rgb(self.folder / key)


def read_questions(path: Path, folder: Path) -> list[Question]:
    """Questions about pictures of a folder.

    Fields: ``picture`` (or ``image``; a path below the folder), ``question``, ``answer`` (a text) or ``answers`` (a list; in a table texts between
    ``|``; VQA's list of ``{"answer": ...}`` too), and where given ``id`` and ``kind`` (what the figures are told apart by).

    Raises:
        UserError: names the file, the row and the field that is wrong; or a picture that is not there.
    """
    if not folder.is_dir():
        raise UserError(f"{shown(folder)} is not a folder; give the one that the pictures named in {shown(path)} lie in.")
    rows = read_rows(path, lines=path.suffix.lower() in (".jsonl", ".ndjson"))
    if not rows:
        raise UserError(f"{shown(path)} holds no questions; give one a line.")
    found = [_question(row, number, path, folder) for number, row in enumerate(rows, 1)]
    taken: set[str] = set()
    for number, question in enumerate(found, 1):
        if question.item in taken:
            raise UserError(f"The id of row {number} of {shown(path)} is {question.item[:80]!r}, which is taken; {MEND}.")
        taken.add(question.item)
    return found


def _question(row: JsonTable, number: int, path: Path, folder: Path) -> Question:
    where = f"row {number} of {shown(path)}"
    key = _text(row, ("picture", "image"), where)
    if Path(key).is_absolute() or ".." in Path(key).parts or "\0" in key:
        raise UserError(f"The picture of {where} is {key[:80]!r}, which is no file below a folder; {MEND}.")
    if not (folder / key).is_file():
        raise UserError(f"{shown(folder / key)} is not there, though {where} names it; give the folder that its names begin in.")
    kind, item = row.get("kind"), row.get("id", row.get("question_id"))
    for name, value in (("kind", kind), ("id", item)):
        if value is not None and not isinstance(value, (str, int)):
            raise UserError(f"The {name} of {where} is {str(value)[:80]}, which is neither a text nor a number; {MEND}.")
    item = str(item) if item not in (None, "") else str(number)
    return Question(item, key, _text(row, ("question",), where), _answers(row, where), str(kind or ""))


def _answers(row: JsonTable, where: str) -> tuple[str, ...]:
    given = row.get("answers")
    if isinstance(given, str) and given:
        given = given.split("|")
    if given is None or given == "":
        return (_text(row, ("answer", "answers"), where),)
    texts = [one.get("answer") if isinstance(one, dict) else one for one in given] if isinstance(given, list) else []
    found = tuple(text.strip() for text in texts if isinstance(text, str) and text.strip() and len(text) <= LONGEST)
    if not found or len(found) < len(texts):
        raise UserError(f"The answers of {where} are {str(given)[:80]}, which is no list of texts; {MEND}.")
    return found


def _text(row: JsonTable, names: tuple[str, ...], where: str) -> str:
    value = next((row[name] for name in names if row.get(name) not in (None, "")), None)
    if value is None:
        raise UserError(f"There is no {' or '.join(names)} in {where}; {MEND}.")
    if not isinstance(value, str) or not value.strip() or len(value) > LONGEST:
        raise UserError(f"The {names[0]} of {where} is {str(value)[:80]!r}, which is no text of 1 to {LONGEST:,} characters; {MEND}.")
    return value.strip()
