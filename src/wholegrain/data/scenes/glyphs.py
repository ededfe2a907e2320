"""Nameable silhouettes of DejaVu Sans (free licence, shipped with matplotlib): masks of any size and tilt.

Two disjoint sets of 60 nouns: ``A`` for development, ``B`` for confirmation.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

_A = """
sun 2600, cloud 2601, umbrella 2602, key 26B7, tick 2714, star 2605, telephone 260E, cup 2615, shamrock 2618, hand 261B,
skull 2620, plus 271A, pie 25D5, face 263B, moon 263E, king 265A, queen 265B, rook 265C, bishop 265D, knight 265E, boomerang 2771,
spade 2660, club 2663, heart 2665, diamond 2666, note 266A, flag 2691, hammer 2692, anchor 2693, sword 2694, scales 2696, flask 2697,
flower 2698, gear 2699, atom 269B, lily 269C, bolt 26A1, urn 26B1, scissors 2702, airplane 2708, envelope 2709, pencil 270E, pen 2712,
cross 271D, snowflake 2744, leaf 2619, house 2302, button 25C9, square 25A0, circle 25CF, triangle 25B2, arrow 27A4, crescent 262A,
yinyang 262F, die 2684, radiation 2622, biohazard 2623, trident 2646, brick 25AC, medal 262E
"""
_B = """
reel 2707, crest 2720, mercury 263F, venus 2640, mars 2642, jupiter 2643, saturn 2644, pluto 2647, lion 264C, ram 2648, bull 2649,
twin 264A, crab 264B, burst 2738, libra 264E, scorpion 264F, archer 2650, goat 2651, water 2652, fish 2653, recycler 267B, warning 26A0,
hexagram 2721, blossom 273F, quote 275E, infinity 221E, omega 03A9, ampersand 0026, question 003F, hash 0023, swirl 0040,
percent 0025, section 00A7, pilcrow 00B6, euro 20AC, dollar 0024, pound 00A3, yen 00A5, pi 03C0, sigma 03A3, delta 0394, lambda 03BB,
psi 03A8, root 221A, integral 222B, staff 2695, loop 2318, eject 23CF, rosette 2740, asterisk 2731, target 25CE, quad 2756,
exclamation 2762, flat 266D, theta 0398, phi 03A6, wedge 25E3, hexagon 2B22, trigram 2632, spring 2668
"""


def _parse(table: str) -> dict[str, str]:
    rows = (row.split() for row in table.replace("\n", " ").split(","))
    return {noun: chr(int(code, 16)) for noun, code in rows}


GLYPHS: dict[str, dict[str, str]] = {"A": _parse(_A), "B": _parse(_B)}
_CHARACTERS = GLYPHS["A"] | GLYPHS["B"]
_MASTER = 128  # pixels of the square in which each silhouette is drawn once
_THIN = 0.37  # silhouettes that ink less of their box than this are drawn with a stroke, so that colour and fill show
_STROKES = range(6)  # the first that inks enough is taken, in pixels of a font of 102: a wider one than needed would close holes


@lru_cache(maxsize=256)
def master(noun: str) -> Image.Image:
    """The silhouette of ``noun``, white on black, cropped to its ink and centred in a square (mode L)."""
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), 4 * _MASTER // 5)
    inks = (_ink(noun, font, stroke) for stroke in _STROKES)
    ink = next((i for i in inks if np.asarray(i).mean() / 255 >= _THIN), None) or _ink(noun, font, _STROKES[-1])
    ink.thumbnail((_MASTER - 8, _MASTER - 8), Image.Resampling.LANCZOS)
    square = Image.new("L", (_MASTER, _MASTER))
    square.paste(ink, ((_MASTER - ink.width) // 2, (_MASTER - ink.height) // 2))
    return square


def _ink(noun: str, font: ImageFont.FreeTypeFont, stroke: int) -> Image.Image:
    page = Image.new("L", (4 * _MASTER, 4 * _MASTER))
    ImageDraw.Draw(page).text((_MASTER, _MASTER), _CHARACTERS[noun], fill=255, font=font, stroke_width=stroke)
    ink = page.crop(page.getbbox())
    enlarge = (_MASTER - 8) / max(ink.size)
    return ink.resize((max(1, round(ink.width * enlarge)), max(1, round(ink.height * enlarge))), Image.Resampling.LANCZOS)


@lru_cache(maxsize=4096)
def mask(noun: str, pixels: int, tilt: float = 0.0) -> np.ndarray:
    """The silhouette in a ``pixels`` square, turned by ``tilt`` degrees: float32 ``[pixels, pixels]`` in 0..1, anti-aliased."""
    turned = master(noun).rotate(tilt, Image.Resampling.BILINEAR)
    return np.asarray(turned.resize((pixels, pixels), Image.Resampling.BOX), dtype=np.float32) / 255
