"""Picture files as the encoder wants them: a key of each by its bytes, and its pixels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol

import numpy as np

from wholegrain.data.pictures import MOST_BYTES, decode_rgb
from wholegrain.data.record import content_key
from wholegrain.data.shards import read_member
from wholegrain.errors import UserError
from wholegrain.evaluation.benchmarks.files import AGAIN
from wholegrain.evaluation.benchmarks.items import Picture
from wholegrain.evaluation.benchmarks.picture_tables import read_cell
from wholegrain.evaluation.contract import PixelSource
from wholegrain.files import read_bytes


class KeyedPictures(PixelSource, Protocol):
    """Pictures of benchmarks with a key each."""

    @property
    def key(self) -> Mapping[Picture, str]: ...


class Pictures:
    """Keys of picture files, so that equal files are one picture wherever they lie, and ``pixels(key)`` for the encoder.

    Args:
        pictures: all that will be asked for.

    Raises:
        UserError: when a file cannot be read.
    """

    def __init__(self, pictures: Iterable[Picture]) -> None:
        distinct = list(dict.fromkeys(pictures))
        places = list(dict.fromkeys(replace(picture, box=None) for picture in distinct))
        with ThreadPoolExecutor(4) as pool:
            hashes = dict(zip(places, pool.map(_hash, places), strict=True))
        self.file: dict[Picture, str] = {picture: hashes[replace(picture, box=None)] for picture in distinct}
        """The key of the whole file that a picture is, or is cut from: the cluster of its items."""
        self.key: dict[Picture, str] = {
            picture: file if picture.box is None else f"{file}@{','.join(map(str, picture.box))}"
            for picture, file in self.file.items()
        }
        self._picture = {key: picture for picture, key in self.key.items()}

    def of_one_file(self) -> list[list[str]]:
        """The keys of pictures that are cut from one file, file by file."""
        cuts: dict[str, list[str]] = {}
        for picture, file in self.file.items():
            cuts.setdefault(file, []).append(self.key[picture])
        return [keys for keys in cuts.values() if len(keys) > 1]

    def pixels(self, key: str) -> np.ndarray:
        """uint8 RGB ``[H, W, 3]``; a box is cut to what lies inside the picture (Pillow's crop would pad with black)."""
        picture = self._picture[key]
        try:
            whole = decode_rgb(_bytes(picture))
        except (OSError, ValueError) as error:
            raise UserError(f"{picture.path}{_at(picture)} is no picture that can be read ({error}); get it again.") from error
        if picture.box is None:
            return whole
        height, width = whole.shape[:2]
        x0, y0, x1, y1 = picture.box
        x0, y0 = min(max(x0, 0), width - 1), min(max(y0, 0), height - 1)
        return np.ascontiguousarray(whole[y0 : max(min(y1, height), y0 + 1), x0 : max(min(x1, width), x0 + 1)])


def _bytes(picture: Picture) -> bytes:
    if picture.cell is not None:
        return read_cell(picture.path, *picture.cell)
    return read_bytes(picture.path, AGAIN, most=MOST_BYTES) if picture.span is None else read_member(picture.path, *picture.span)


def _at(picture: Picture) -> str:
    if picture.cell is not None:
        return f" (row {picture.cell[1] + 1:,}, column {picture.cell[0]!r})"
    return "" if picture.span is None else f" (from byte {picture.span[0]:,} on)"


def _hash(picture: Picture) -> str:
    try:
        return content_key(_bytes(picture))
    except OSError as error:
        raise UserError(f"{picture.path} cannot be read ({error.strerror}); check it and the folder.") from error
