"""What every source yields, and what every source may be told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from wholegrain.data.record import Region
from wholegrain.data.shards import read_member
from wholegrain.errors import UserError


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
        split, label: as in :class:`~wholegrain.data.record.Record`.
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
        """The image's bytes. Raises :class:`OSError` or :class:`UserError` if they cannot be read."""
        if isinstance(self.image, bytes):
            return self.image
        if isinstance(self.image, Member):
            return read_member(self.image.path, self.image.offset, self.image.size)
        return self.image.read_bytes()

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
        split: split of samples that state none.
        image_root: folder that relative paths are relative to, and that no path may leave; the source's own folder if empty.
    """

    image_column: str = ""
    caption_columns: tuple[tuple[str, str], ...] = ()
    split_column: str = ""
    label_column: str = ""
    role_column: str = ""
    role: str = "web"
    split: str = "train"
    image_root: Path | None = None


class Source(Protocol):
    """What prepares read: the same samples in the same order each time it is iterated."""

    def __iter__(self) -> Iterator[RawSample]: ...

    def fingerprint(self) -> list[str]:
        """Lines that change when the source's files change (names, sizes, times)."""
        ...


def stamp(*paths: Path) -> list[str]:
    """Name, size and time of files, for :meth:`Source.fingerprint`."""
    found = ((path, path.stat()) for path in paths)
    return [f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in found]


@dataclass(frozen=True)
class InsideFolder:
    """Turns names of images in data into paths, and lets none leave its folder, by ``..``, as an absolute path or by a link."""

    root: Path
    real: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "real", os.path.realpath(self.root))

    def __call__(self, name: str, where: str) -> Path:
        path = os.path.normpath(os.path.join(self.root, name))
        folder, base = os.path.split(path)
        real = os.path.join(_real_folder(os.path.abspath(folder)), base)
        if os.path.islink(real):
            real = os.path.realpath(real)
        if os.path.commonpath((real, self.real)) != self.real:
            raise UserError(
                f"{where}: the image path {name!r} leaves the folder {self.root}; move the images there, "
                "or name the folder that holds them with --image-root"
            )
        return Path(path)


@lru_cache(maxsize=2**16)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)
