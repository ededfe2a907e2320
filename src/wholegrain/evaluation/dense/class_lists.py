"""Segmentation sets' class names by the name of the set: SCLIP's lists (``class_lists.toml``), which ClearCLIP, COSMOS and others use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from wholegrain.errors import UserError
from wholegrain.evaluation.dense.folder import ClassSet
from wholegrain.files import read_toml
from wholegrain.structure import JsonTable
from wholegrain.suggest import closest


@dataclass(frozen=True)
class ClassList:
    """A set's classes and what belongs to its protocol.

    Attributes:
        classes: who competes; words of the background compete for the background.
        scale: factor on cosines before the threshold.
        short: shorter side of the pictures in pixels.
        ending: of the masks' names, where a folder holds several masks of a picture.
    """

    classes: ClassSet
    scale: float
    short: int
    ending: str


@cache
def _lists() -> dict[str, JsonTable]:
    return read_toml(str(files("wholegrain.evaluation.dense").joinpath("class_lists.toml")), "install wholegrain again")


def class_list(name: str) -> ClassList:
    """The list of a set.

    Raises:
        UserError: for an unknown name.

    Example:
        >>> voc = class_list("voc21").classes
        >>> len(voc.names), voc.background, voc.background_words[:2], voc.words[14][1]
        (20, 0, ('sky', 'wall'), 'person in shirt')
    """
    if name not in _lists():
        raise UserError(f"There is no list of classes {name!r}; {closest(name, _lists())} A list of your own is classes.json in the folder.")
    own = _lists()[name]
    row = {**_lists()[own["like"]], **own} if "like" in own else own
    words = tuple(_words(entry) for entry in row["names"].split("|"))
    first, (start, stop) = row["first"], row.get("things", (0, len(words)))
    made = ClassSet(
        tuple(entry[0] for entry in words), words, tuple(range(first, first + len(words))),
        tuple(start <= n < stop for n in range(len(words))), row.get("background"), frozenset({255, *row.get("ignore", ())}),
        _words(row.get("background_words", "")),
    )  # fmt: skip
    return ClassList(made, row.get("scale", 40.0), row.get("short", 0), row.get("ending", ""))


def _words(entry: str) -> tuple[str, ...]:
    return tuple(" ".join(word.split()) for word in entry.split(",") if word.strip())
