"""The contact sheet of a search: one self-contained page, with the maps of the query's phrases laid over the pictures on demand."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from wholegrain.data.preprocess import Box
from wholegrain.files import shown
from wholegrain.report.heatmaps import COLOURS, colour_stops
from wholegrain.report.page import page_environment, write_page

MOST_BYTES = 2_700_000
"""Of all pictures of a page, as they stand in it."""
MOST_PICTURES = 500
"""Of a page."""
SIZES = ((480, 82), (400, 78), (320, 75), (240, 72), (160, 70), (112, 65))
"""Longer side in pixels and JPEG quality; the first at which everything fits is taken."""


@dataclass(frozen=True)
class Found:
    """A picture of the sheet.

    Attributes:
        name: as it is shown below the picture.
        score: of the picture with the query.
        pixels: gives uint8 RGB ``[H, W, 3]``.
        maps_QRC: a value for each patch and phrase; ``None`` without maps.
        where: a place in words for each phrase.
        seen: the part of a picture of this width and height that the patches cover.
    """

    name: str
    score: float
    pixels: Callable[[], np.ndarray]
    maps_QRC: np.ndarray | None
    where: Sequence[str]
    seen: Callable[[int, int], Box]


@dataclass(frozen=True)
class SheetHead:
    """What stands above the pictures.

    Attributes:
        query: the text; or the name of a picture.
        pixels: of the picture that was asked with, if one was.
        facts: one line: the model, what was searched, what the scores are.
        phrases: of the maps.
        notes: further sentences.
    """

    query: str
    pixels: np.ndarray | None
    facts: str
    phrases: Sequence[str]
    notes: Sequence[str]


def write_search_sheet(path: Path, head: SheetHead, found: Sequence[Found]) -> Path:
    """Writes the page, aside first; it needs no other file and no network.

    Pictures become smaller the more there are, and beyond :data:`MOST_PICTURES`, or :data:`MOST_BYTES`, the last are left out, which the page says.
    """
    sizes, thumbs = _thumbs(found[:MOST_PICTURES])
    scales = _scales(head.phrases, found)
    cards = [_card(one, thumb, size, scales) for one, thumb, size in zip(found, thumbs, sizes, strict=False)]
    page = page_environment().get_template("search_sheet.html.j2").render(
        query=shown(head.query), facts=head.facts, notes=head.notes, cards=cards, left_out=len(found) - len(cards),
        asked=None if head.pixels is None else _uri(_jpeg(_small(head.pixels, 320), 80)), stops=colour_stops(),
        phrases=[{"text": text, "low": low, "high": high} for text, (low, high) in zip(head.phrases, scales, strict=True)],
    )  # fmt: skip
    return write_page(path, page)


def _thumbs(found: Sequence[Found]) -> tuple[list[tuple[int, int]], list[bytes]]:
    """Width and height of the pictures, and their JPEGs: all of them at the largest size that fits, or the first of them at the smallest."""
    side, quality = SIZES[0]
    pictures, sizes = [], []
    for one in found:
        pixels_HWC = one.pixels()
        sizes.append((pixels_HWC.shape[1], pixels_HWC.shape[0]))
        pictures.append(_small(pixels_HWC, side))
    made: list[bytes] = []
    for side, quality in SIZES:
        made = [_jpeg(_small(np.asarray(picture), side), quality) for picture in pictures]
        if sum(map(_bytes, made)) <= MOST_BYTES:
            return sizes, made
    room = np.cumsum([_bytes(jpeg) for jpeg in made]) <= MOST_BYTES
    return sizes, made[: int(room.sum())]


def _small(pixels_HWC: np.ndarray, side: int) -> Image.Image:
    picture = Image.fromarray(pixels_HWC)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return picture


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()


def _bytes(jpeg: bytes) -> int:
    return 4 * len(jpeg) // 3 + 1500  # in base64, with its words and maps


def _uri(data: bytes, kind: str = "jpeg") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _scales(phrases: Sequence[str], found: Sequence[Found]) -> list[tuple[float, float]]:
    """The least and the greatest value of each phrase on all pictures: one scale a phrase, so that pictures can be compared."""
    maps = [one.maps_QRC for one in found if one.maps_QRC is not None]
    if not maps:
        return [(0.0, 0.0)] * len(phrases)
    return [(min(float(m[q].min()) for m in maps), max(float(m[q].max()) for m in maps)) for q in range(len(phrases))]


def _card(one: Found, thumb: bytes, size: tuple[int, int], scales: Sequence[tuple[float, float]]) -> dict[str, object]:
    width, height = size
    x0, y0, x1, y1 = one.seen(width, height)
    box = {"left": x0 / width, "top": y0 / height, "width": (x1 - x0) / width, "height": (y1 - y0) / height}
    maps = [] if one.maps_QRC is None else [_map_uri(m, scale) for m, scale in zip(one.maps_QRC, scales, strict=True)]
    peaks = [] if one.maps_QRC is None else [float(m.max()) for m in one.maps_QRC]
    return {
        "name": shown(one.name), "score": one.score, "width": width, "height": height, "uri": _uri(thumb), "box": box,
        "maps": [{"uri": uri, "peak": peak, "where": where} for uri, peak, where in zip(maps, peaks, one.where, strict=True)],
    }  # fmt: skip


def _map_uri(map_RC: np.ndarray, scale: tuple[float, float]) -> str:
    """One pixel a patch: the browser enlarges it, and it takes a few hundred bytes."""
    low, high = scale
    share = np.clip((map_RC - low) / max(high - low, 1e-9), 0.0, 1.0)
    file = io.BytesIO()
    colours = (matplotlib.colormaps[COLOURS](share)[..., :3] * 255).round().astype(np.uint8)
    Image.fromarray(colours).save(file, "PNG", optimize=True)
    return _uri(file.getvalue(), "png")
