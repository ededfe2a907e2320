"""Pictures as a caller gives them: one or many, as paths, Pillow pictures or arrays, read as the encoder asks for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
from PIL import Image

from wholegrain.data.listing import list_pictures
from wholegrain.data.pictures import HasPixels, Picture, rgb_of
from wholegrain.errors import UserError

Pictures: TypeAlias = Picture | Iterable[Picture]
"""One picture, any number of them, of mixed kinds, or a folder of pictures."""
Broken: TypeAlias = Callable[[int, str], None]
"""Told of a picture that cannot be read: its place (from 0), and one sentence."""


def as_pictures(pictures: Pictures) -> Iterable[Picture]:
    """One picture as a list of one; those of a folder, in the order of their paths."""
    if isinstance(pictures, str | os.PathLike) and Path(pictures).is_dir():
        return list_pictures(Path(pictures)).pictures
    if isinstance(pictures, str | os.PathLike | Image.Image | HasPixels) or (isinstance(pictures, np.ndarray) and pictures.ndim < 4):
        return [cast(Picture, pictures)]
    if not isinstance(pictures, Iterable):
        raise UserError(f"Pictures are of type {type(pictures).__name__}; give paths, Pillow pictures or uint8 arrays [height, width, 3].")
    return pictures


class GivenPictures:
    """A few pictures as the encoder wants them; with ``skip``, one that cannot be read is black, and kept in mind."""

    def __init__(self, pictures: Sequence[Picture], start: int, *, skip: bool) -> None:
        self.keys = [str(start + n) for n in range(len(pictures))]
        self._picture, self._skip = dict(zip(self.keys, pictures, strict=True)), skip
        self._unread: dict[int, str] = {}

    def pixels(self, key: str) -> np.ndarray:
        """As the encoder asks for them, in threads of its own."""
        try:
            return rgb_of(self._picture[key], int(key))
        except UserError as error:
            if not self._skip:
                raise
            self._unread[int(key)] = str(error)
            return np.zeros((8, 8, 3), np.uint8)

    def readable(self, places: Iterable[int], broken: Broken | None) -> list[int]:
        """Those that were read; ``broken`` is told of the others."""
        kept = []
        for place in places:
            if place not in self._unread:
                kept.append(place)
            elif broken is not None:
                broken(place, self._unread[place])
        return kept
