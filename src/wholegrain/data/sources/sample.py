"""What every source yields, and what every source may be told."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from wholegrain.data.pictures import MOST_BYTES
from wholegrain.data.record import Region
from wholegrain.data.shards import read_member
from wholegrain.errors import UserError
from wholegrain.files import read_bytes, shown

MOST_TEXT = 16 * 2**20
"""Bytes of a line of a table, or of a text file beside an image."""


@dataclass(frozen=True)
class Member:
    """A piece of a larger file: ``size`` bytes from ``offset`` on."""

    path: Path
    offset: int
    size: int


@dataclass(frozen=True)
class RawSample:
    """One image and what is said of it, before anything was checked.

    Attributes:
        image: the file's bytes, or where they are.
        captions: (text, role, source) in order.
        split: as in :class:`~wholegrain.data.record.Record`; empty if nothing states it.
        label: as there.
        regions: described parts, in pixels of the image.
        where: file and line, row or member, for messages.
        problem: why the sample cannot be used, if the source saw that already.
    """

    image: bytes | Path | Member
    captions: tuple[tuple[str, str, str], ...]
    split: str
    label: str | None = None
    regions: tuple[Region, ...] = ()
    where: str = ""
    problem: str = ""

    def read(self) -> bytes:
        """The image's bytes. Raises :class:`UserError` if they cannot be read."""
        if isinstance(self.image, bytes):
            return self.image
        if isinstance(self.image, Member):
            if self.image.size > MOST_BYTES:
                raise UserError(f"{self.where} has {self.image.size:,} bytes, more than are read of a picture")
            return read_member(self.image.path, self.image.offset, self.image.size)
        return read_bytes(self.image, "correct the source", most=MOST_BYTES)

    @property
    def place(self) -> str:
        """Where the image's bytes are: the same file named twice has one place."""
        return str(self.image) if isinstance(self.image, Path) else self.where


@dataclass(frozen=True)
class SourceOptions:
    """What a source may be told; empty means: recognise it by its usual names.

    Attributes:
        image_column, split_column, label_column, role_column: names of columns or fields.
        caption_columns: (column, role) pairs, in order; several columns are several captions of one image.
        role: role of captions that state none.
        split: split of samples that state none; empty leaves it open.
        image_root: folder that relative paths are relative to, and that no path may leave. By default the source's own folder; and for
            absolute paths, if the source's first path is one, the folder that all of them have in common.
        captions_needed: refuse a table that says nothing of its images.
    """

    image_column: str = ""
    caption_columns: tuple[tuple[str, str], ...] = ()
    split_column: str = ""
    label_column: str = ""
    role_column: str = ""
    role: str = "web"
    split: str = ""
    image_root: Path | None = None
    captions_needed: bool = True

    def without_captions(self) -> SourceOptions:
        """The same, for pictures of which nothing need be said."""
        return replace(self, captions_needed=False)


class Source(Protocol):
    """What prepares read: the same samples in the same order each time it is iterated."""

    def __iter__(self) -> Iterator[RawSample]: ...

    def fingerprint(self) -> list[str]:
        """Lines that change when the source's files change (names, sizes, times)."""
        ...


def utf8(text: str) -> str:
    """A text that can be written; half a surrogate pair, which JSON and names of files can hold, becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


def stamp(*paths: Path) -> list[str]:
    """Name, size and time of files, for :meth:`Source.fingerprint`."""
    found = ((path, path.stat()) for path in paths)
    return [f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in found]


@dataclass(frozen=True)
class InsideFolder:
    """Turns names of images in data into paths, and lets none leave its folder, by ``..``, as an absolute path or by a link.

    Attributes:
        root: the folder.
        common: a folder for absolute paths, beside; ``None`` if there are none.
    """

    root: Path
    common: Path | None = None
    real: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "real", tuple(os.path.realpath(p) for p in (self.root, self.common) if p is not None))

    @classmethod
    def of(cls, own: Path, options: SourceOptions, names: Iterable[object]) -> InsideFolder:
        """Of a table in the folder ``own`` with these names of images; see :attr:`SourceOptions.image_root`.

        Raises:
            UserError: there is no such folder, or absolute paths have only ``/`` in common.
        """
        if options.image_root is not None:
            if not os.path.isdir(options.image_root):
                raise UserError(f"--image-root {shown(options.image_root)} is not a folder; name the one that holds the images")
            return cls(options.image_root)
        found = iter(names)
        first = next(found, None)
        if not isinstance(first, str) or not os.path.isabs(first):
            return cls(own)
        common = os.path.dirname(os.path.normpath(first))
        for name in found:
            if isinstance(name, str) and os.path.isabs(name):
                common = os.path.commonpath((common, os.path.dirname(os.path.normpath(name))))
        if common == os.path.sep:
            raise UserError(
                f"the absolute image paths of the table in {shown(own)}, such as {shown(first)}, have no folder in common but /; "
                "move the images into one folder and name it with --image-root"
            )
        return cls(own, Path(common))

    @property
    def description(self) -> str:
        """Where pictures come from, if that is not the source's own folder; empty otherwise."""
        return shown(self.common) if self.common is not None else ""

    def __call__(self, name: str, where: str) -> Path:
        path = os.path.normpath(os.path.join(self.root, name))
        folder, base = os.path.split(path)
        try:
            real = os.path.join(_real_folder(os.path.abspath(folder)), base)
            if os.path.islink(real):
                real = os.path.realpath(real)
        except ValueError:  # a NUL byte, or half a surrogate pair: no such file can be, and reading says so
            return Path(path)
        if not any(os.path.commonpath((real, inside)) == inside for inside in self.real):
            left = self.common if self.common is not None and os.path.isabs(name) else self.root
            raise UserError(
                f"{where}: the image path {shown(name)!r} leaves the folder {shown(left)}; move the images there, "
                "or name the folder that holds them with --image-root"
            )
        return Path(path)


@lru_cache(maxsize=2**16)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)
