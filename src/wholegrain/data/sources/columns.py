"""Which column holds what: recognised by the names in use, or as told."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wholegrain.data.record import Region
from wholegrain.data.sources.sample import SourceOptions
from wholegrain.errors import UserError
from wholegrain.structure import JsonTable
from wholegrain.suggest import closest

IMAGE = (
    "filepath",
    "file_path",
    "image",
    "image_path",
    "img_path",
    "path",
    "file_name",
    "filename",
    "image_file",
    "image_name",
    "img",
)
IMAGE += ("jpg", "jpeg", "png", "webp")
CAPTION = (
    "caption",
    "captions",
    "title",
    "text",
    "texts",
    "txt",
    "sentence",
    "sentences",
    "sentences_raw",
    "description",
    "comment",
)
CAPTION += ("alt_text", "raw", "alt")
SPLIT = ("split", "subset")
LABEL = ("label", "class", "class_name", "category")
ROLE = ("role",)

Captions = tuple[tuple[str, str, str], ...]
_DEEPEST = 3
"""Lists in lists of captions."""


class WrongValueError(ValueError):
    """A row's value that cannot be what its column holds. The text is the reason, which lists of broken samples show."""


@dataclass(frozen=True)
class Columns:
    """The columns of a table that were found; a missing one is an empty name."""

    image: str
    captions: tuple[tuple[str, str], ...]
    split: str
    label: str
    role: str
    options: SourceOptions

    @classmethod
    def find(cls, names: Sequence[str], options: SourceOptions, where: str, image: bool = True) -> Columns:
        """Chooses among ``names``.

        Raises:
            UserError: no image column, neither caption nor label column, one asked for is missing, or one that is read is there twice;
                lists what is there.
        """
        for named in (options.image_column, options.split_column, options.label_column, options.role_column, *dict(options.caption_columns)):
            if named and named not in names:
                raise UserError(f"{where} has no column {named!r}; {closest(named, names)}")
        picture = options.image_column or _first(IMAGE, names)
        if image and not picture:
            raise UserError(f"{where} has no image column among {_list(names)}; name it with --image-column")
        label = options.label_column or _first(LABEL, names)
        caption = _first(CAPTION, [name for name in names if name != picture])
        captions = options.caption_columns or (((caption, ""),) if caption else ())
        if options.captions_needed and not captions and not label:
            raise UserError(f"{where} has no caption column among {_list(names)}; name it with --caption-column")
        split = options.split_column or _first(SPLIT, names)
        found = cls(picture, captions, split, label, options.role_column or _first(ROLE, names), options)
        twice = next((name for name in found.used() if names.count(name) > 1), "")
        if twice:
            raise UserError(f"{where} has several columns {twice!r}; give each a name of its own, or take all but one out")
        return found

    def used(self) -> list[str]:
        """Names of all columns that are read."""
        names = [self.image, *(name for name, _ in self.captions), self.split, self.label, self.role]
        return list(dict.fromkeys(name for name in names if name))

    def texts(self, row: Mapping[str, object], source: str, label: str | None = None) -> Captions:
        """The captions of a row; a row without any, but with a label, is described by the label, with the role ``label``.

        Raises:
            WrongValueError: a value is no text; so do :meth:`split_of` and :meth:`label_of`.
        """
        stated = _word(row.get(self.role), self.role) if self.role else ""
        found = [
            item
            for name, role in self.captions
            for item in self._texts(row.get(name), role or stated or self.options.role, f"{source}:{name}", name)
        ]
        if not found and label and not self.captions:
            return ((label.replace("_", " "), "label", f"{source}:{self.label}"),)
        return tuple(found)

    def _texts(self, value: object, role: str, source: str, name: str, depth: int = 0) -> list[tuple[str, str, str]]:
        if value is None:
            return []
        if isinstance(value, str):
            return [(value, role, source)]
        if isinstance(value, Mapping):
            text = next((value[key] for key in ("text", "caption", "raw", "sentence") if value.get(key) is not None), "")
            own, origin = (_word(value.get(key), f"{name}.{key}") for key in ("role", "source"))
            return self._texts(text, own or role, origin or source, name, _DEEPEST)
        if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray) and depth < _DEEPEST:
            return [item for part in value for item in self._texts(part, role, source, name, depth + 1)]
        raise WrongValueError(f"the field {name!r} holds something else than captions: {_short(value)}")

    def split_of(self, row: Mapping[str, object]) -> str:
        """The split that a row states, or the one for rows that state none, which may be empty."""
        return _word(row.get(self.split) if self.split else None, self.split) or self.options.split

    def label_of(self, row: Mapping[str, object], name: Callable[[object], object] = str) -> str | None:
        """The label that a row states, if any; ``name`` turns its value into words."""
        value = row.get(self.label) if self.label else None
        if value is None or value == "":
            return None
        try:
            return _word(name(value) if name is not str else value, self.label)
        except (ValueError, TypeError, IndexError, OverflowError):
            raise WrongValueError(f"the field {self.label!r} holds no label: {_short(value)}") from None


def _word(value: object, name: str) -> str:
    """A text or a whole number as a text; nothing is empty."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**64:
        return str(value)
    raise WrongValueError(f"the field {name!r} holds no text: {_short(value)}")


def _short(value: object) -> str:
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or a number of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}…"


def regions_of(value: Any, where: str) -> tuple[Region, ...]:
    """Regions of a JSON record: a list of ``{"box": [x0, y0, x1, y1], "phrase": "…", "mask": [run lengths]}``."""
    try:
        return tuple(_region(region) for region in value or ())
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise UserError(f'{where}: regions are not a list of {{"box": [x0, y0, x1, y1], "phrase": "…"}}; correct them') from None


def _region(values: JsonTable) -> Region:
    x0, y0, x1, y1 = (float(x) for x in values["box"])
    mask = tuple(int(n) for n in values.get("mask") or ())
    if not all(map(math.isfinite, (x0, y0, x1, y1))) or min(mask, default=0) < 0 or not isinstance(values["phrase"], str):
        raise ValueError
    return Region((x0, y0, x1, y1), values["phrase"], mask)


def _first(known: Sequence[str], names: Sequence[str]) -> str:
    by_lower = {name.lower().strip(): name for name in reversed(names)}
    return next((by_lower[name] for name in known if name in by_lower), "")


def _list(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names) or "no columns"
