"""Which column holds what: recognised by the names in use, or as told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wholegrain.data.record import Region
from wholegrain.data.sources.sample import SourceOptions
from wholegrain.errors import UserError
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
            UserError: no image column, neither caption nor label column, or one asked for is missing; lists what is there.
        """
        for told in (options.image_column, options.split_column, options.label_column, options.role_column, *_told(options)):
            if told and told not in names:
                raise UserError(f"{where} has no column {told!r}; {closest(told, names)}")
        picture = options.image_column or _first(IMAGE, names)
        if image and not picture:
            raise UserError(f"{where} has no image column among {_list(names)}; name it with --image-column")
        label = options.label_column or _first(LABEL, names)
        caption = _first(CAPTION, [name for name in names if name != picture])
        captions = options.caption_columns or (((caption, ""),) if caption else ())
        if not captions and not label:
            raise UserError(f"{where} has no caption column among {_list(names)}; name it with --caption-column")
        split = options.split_column or _first(SPLIT, names)
        return cls(picture, captions, split, label, options.role_column or _first(ROLE, names), options)

    def used(self) -> list[str]:
        """Names of all columns that are read."""
        names = [self.image, *(name for name, _ in self.captions), self.split, self.label, self.role]
        return list(dict.fromkeys(name for name in names if name))

    def texts(self, row: Mapping[str, Any], source: str, label: str | None = None) -> Captions:
        """The captions of a row; a row without any, but with a label, is described by the label, with the role ``label``."""
        stated = str(row.get(self.role) or "") if self.role else ""
        found = [item for name, role in self.captions for item in self._texts(row.get(name), role or stated, f"{source}:{name}")]
        if not found and label and not self.captions:
            return ((label.replace("_", " "), "label", f"{source}:{self.label}"),)
        return tuple(found)

    def _texts(self, value: Any, role: str, source: str) -> list[tuple[str, str, str]]:
        role = role or self.options.role
        if value is None:
            return []
        if isinstance(value, Mapping):
            text = next((value[name] for name in ("text", "caption", "raw", "sentence") if value.get(name) is not None), "")
            return [(str(text), str(value.get("role") or role), str(value.get("source") or source))]
        if isinstance(value, Iterable) and not isinstance(value, str):
            return [item for part in value for item in self._texts(part, role, source)]
        return [(str(value), role, source)]

    def split_of(self, row: Mapping[str, Any]) -> str:
        """The split that a row states, or the default one."""
        return str((row.get(self.split) if self.split else "") or self.options.split).strip()

    def label_of(self, row: Mapping[str, Any], name: Callable[[Any], str] = str) -> str | None:
        """The label that a row states, if any; ``name`` turns its value into words."""
        value = row.get(self.label) if self.label else None
        return None if value is None or value == "" else name(value).strip()


def regions_of(value: Any, where: str) -> tuple[Region, ...]:
    """Regions of a JSON record: a list of ``{"box": [x0, y0, x1, y1], "phrase": "…", "mask": [run lengths]}``."""
    try:
        return tuple(_region(region) for region in value or ())
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f'{where}: regions are not a list of {{"box": [x0, y0, x1, y1], "phrase": "…"}}; correct them') from None


def _region(values: Mapping[str, Any]) -> Region:
    x0, y0, x1, y1 = (float(x) for x in values["box"])
    return Region((x0, y0, x1, y1), str(values["phrase"]), tuple(int(n) for n in values.get("mask", ())))


def _told(options: SourceOptions) -> list[str]:
    return [name for name, _ in options.caption_columns]


def _first(known: Sequence[str], names: Sequence[str]) -> str:
    by_lower = {name.lower().strip(): name for name in reversed(names)}
    return next((by_lower[name] for name in known if name in by_lower), "")


def _list(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names) or "no columns"
