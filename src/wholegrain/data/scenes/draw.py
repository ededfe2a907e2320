"""The pixels of a scene: textured ground, anti-aliased silhouettes with a fill, a thin darker rim, a little grain."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from wholegrain.data.scenes.glyphs import mask
from wholegrain.data.scenes.world import COLOURS, DARK, GROUNDS, INKS, SIZES, Scene, Thing


def draw(scene: Scene, size: int = 64) -> np.ndarray:
    """The picture, uint8 ``[size, size, 3]``."""
    rng = np.random.default_rng(scene.seed)
    picture = _ground(scene, size, rng)
    for thing in scene.things:
        _paint(picture, thing, size, rng)
    if scene.style == "grainy":
        picture += rng.normal(0, 9, picture.shape[:2]).astype(np.float32)[..., None]
    return np.clip(picture, 0, 255).round().astype(np.uint8)


def masks(scene: Scene, size: int = 64) -> list[np.ndarray]:
    """The exact mask of each thing, bool ``[size, size]``: covered by at least half."""
    found = []
    for thing in scene.things:
        page = np.zeros((size, size), dtype=bool)
        rows, columns, cover = _cover(thing, size)
        page[rows, columns] = cover > 0.5
        found.append(page)
    return found


def png(picture: np.ndarray) -> bytes:
    """The picture as the bytes of a PNG file (lossless, no metadata)."""
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG", compress_level=1)
    return out.getvalue()


def _ground(scene: Scene, size: int, rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    phase = rng.random(2)
    if scene.texture == "checked":
        shade = 16 * ((np.floor(8 * (x + phase[0])) + np.floor(8 * (y + phase[1]))) % 2)
    elif scene.texture == "ruled":
        shade = 20 * (((y + phase[1]) * 16) % 1 < 0.3)
    elif scene.texture == "shaded":
        shade = 40 * (x * phase[0] + y * (1 - phase[0]))
    else:
        shade = np.zeros_like(x)
    return np.asarray(GROUNDS[scene.ground], np.float32) - shade[..., None].astype(np.float32)


def _cover(thing: Thing, size: int) -> tuple[slice, slice, np.ndarray]:
    pixels = round(SIZES[thing.size] * size)
    top = int(np.clip(round(thing.y * size - pixels / 2), 0, size - pixels))
    left = int(np.clip(round(thing.x * size - pixels / 2), 0, size - pixels))
    return slice(top, top + pixels), slice(left, left + pixels), mask(thing.noun, pixels, thing.tilt)


def _paint(picture: np.ndarray, thing: Thing, size: int, rng: np.random.Generator) -> None:
    rows, columns, cover = _cover(thing, size)
    y, x = np.mgrid[rows, columns]
    period = max(4, size // 16)
    colour = np.asarray(COLOURS[thing.colour], np.float32)
    mark, other = np.zeros_like(cover), 255.0
    if thing.fill == "striped":
        mark = (((x + y + int(rng.integers(period))) % period) < period / 2).astype(np.float32)
        other = 255.0 if colour.mean() < DARK else 0.0
    elif thing.fill == "dotted":
        mark = ((x % period < period / 2) & (y % period < period / 2)).astype(np.float32)
    share = mark[..., None] * (1 - INKS.get(thing.fill, 1.0))
    paint = colour * (1 - share) + other * share
    patch = picture[rows, columns]
    picture[rows, columns] = patch * (1 - cover[..., None]) + paint * cover[..., None]
