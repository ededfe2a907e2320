"""Where in a picture a model sees a phrase, or a word of it: a value for every patch, laid over the picture.

The read-outs are those of :mod:`wholegrain.evaluation.tasks.grounding` (:mod:`wholegrain.evaluation.read_outs.registry`), so a heat map shows
what the figures count. Nothing is trained or tuned for it, and negative values are not cut off.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import matplotlib
import numpy as np
import torch
from matplotlib.colors import to_hex
from PIL import Image

from wholegrain.data.record import Record, Region
from wholegrain.evaluation.contract import PatchModel
from wholegrain.evaluation.features.encode import device_of
from wholegrain.evaluation.features.regions import Box, decode_mask
from wholegrain.evaluation.read_outs.contract import Phrase
from wholegrain.evaluation.read_outs.registry import COMMON, looks, read_outs_named
from wholegrain.evaluation.statistics.blind import words
from wholegrain.report.pictures import SIDE, seen_part, shown_size

COLOURS = "viridis"  # perceptually uniform, and rising in lightness, so that it survives grey print and colour blindness
_ARTICLES = frozenset({"a", "an", "the"})
_LINK_WORDS = """
    a an the and or but with without of in on at to by for from into onto over under above below beside behind between
    before after near next left right top bottom up down upper lower side is are was were be being been has have having
    there this that these those it its which who whose while as than then not no one's picture image photo photograph
    drawing scene view shows show showing shown depicts depicting drawn seen front middle centre center inside outside
    against across along around here lies lie
"""
_LINKS = frozenset(_LINK_WORDS.split())


def patch_maps(
    model: PatchModel, pictures: Sequence[np.ndarray], phrases: Sequence[str | Phrase], *, read_out: str = COMMON, batch: int = 64
) -> np.ndarray:
    """Values float32 ``[pictures, phrases, rows, cols]`` by a read-out: every phrase on every picture.

    Raises:
        NotSupportedError: the model gives no patches, or cannot be read out so.
    """
    (reader,) = read_outs_named(model, [read_out])
    asked_N = reader.ask([Phrase(phrase) if isinstance(phrase, str) else phrase for phrase in phrases])
    found, grid = [], (0, 0)
    for start in range(0, len(pictures), batch):
        views = [torch.as_tensor(np.asarray(model.preprocess.image(pixels))) for pixels in pictures[start : start + batch]]
        (look,), grid = looks([reader], torch.stack(views).to(device_of(model)))
        found.append(reader.all_maps(look, asked_N, len(views)).mT.numpy())
    return np.concatenate(found).reshape(len(pictures), len(phrases), *grid)


def content_words(caption: str) -> list[Phrase]:
    """The content words of a caption, each as a part of it.

    Example:
        >>> [caption.text[caption.start : caption.end] for caption in content_words("There is a small red cup, left of the star.")]
        ['small', 'red', 'cup', 'star']
    """
    found = [Phrase(caption, match.start(), match.end()) for match in re.finditer(r"[\w'’-]+", caption)]
    return [word for word in found if caption[word.start : word.end].lower() not in _LINKS]


def content_phrases(caption: str, nouns: Sequence[str] = ()) -> list[str]:
    """The runs of content words of a caption, with their article: noun phrases, as far as words alone tell.

    Args:
        nouns: words, in the singular, at which a phrase is known to end; a run that holds one ends with the last of them.

    Example:
        >>> content_phrases("there is a small red cup to the left of the star")
        ['a small red cup', 'the star']
    """
    phrases: list[str] = []
    for part in re.split(r"[^\w\s'’-]+", caption.lower()):
        tokens, run = part.split(), []
        for place, token in enumerate([*tokens, "and"]):
            if token not in _LINKS:
                run.append(place)
            elif run:
                known = [here for here in run if tokens[here] in nouns or tokens[here].removesuffix("s") in nouns]
                run = run[: run.index(known[-1]) + 1] if known else run
                start = run[0] - (run[0] > 0 and tokens[run[0] - 1] in _ARTICLES)
                phrases.append(" ".join(tokens[start : run[-1] + 1]))
                run = []
    return list(dict.fromkeys(phrases))


def own_region(record: Record, phrase: str) -> Region | None:
    """The region that a phrase names: its last word is the phrase's, and of several the one that shares most words.

    ``None`` when there is none or two fit equally. A false attribute still finds its object: "a blue cup" finds the red one.
    """
    asked = words(phrase)
    scored = sorted(
        ((len(set(asked) & set(words(region.phrase))), n) for n, region in enumerate(record.regions)
         if asked and words(region.phrase)[-1:] == asked[-1:]),
        reverse=True,
    )  # fmt: skip
    if not scored or (len(scored) > 1 and scored[0][0] == scored[1][0]):
        return None
    return record.regions[scored[0][1]]


def region_mask(record: Record, region: Region) -> np.ndarray:
    """bool ``[height, width]`` of the stored picture: the region's mask, or its box."""
    if region.mask:
        return decode_mask(region.mask, record.size)
    mask = np.zeros(record.size[::-1], dtype=bool)
    x0, y0, x1, y1 = (round(x) for x in region.box)
    mask[max(0, y0) : max(0, y1), max(0, x0) : max(0, x1)] = True
    return mask


def overlay(
    pixels_HWC: np.ndarray,
    map_RC: np.ndarray,
    *,
    scale: tuple[float, float] | None = None,
    seen: Box | None = None,
    mask_HW: np.ndarray | None = None,
    strength: float = 0.64,
    side: int = SIDE,
) -> np.ndarray:
    """uint8 ``[h, w, 3]``: the map in colours over the grey picture, and an object's outline.

    Args:
        map_RC: patch values; upsampled bicubically.
        scale: the values of the darkest and the brightest colour; the map's own least and greatest by default. Maps that are to be
            compared need one scale.
        seen: the part of the picture that the patches cover (``preprocess.visible_box``).
        mask_HW: an object of the stored picture, outlined in white on black.
        strength: 0 shows the picture alone, 1 the map alone.
    """
    height, width = pixels_HWC.shape[:2]
    box = seen or (0.0, 0.0, float(width), float(height))
    picture = seen_part(pixels_HWC, box, side).astype(np.float32)
    grey = 60 + 0.7 * picture.mean(2, keepdims=True)
    low, high = scale or (float(map_RC.min()), float(map_RC.max()))
    smooth = _enlarged(map_RC.astype(np.float32), shown_size(box, side))
    share = np.clip((smooth - low) / max(high - low, 1e-9), 0.0, 1.0)
    colours = matplotlib.colormaps[COLOURS](share)[..., :3].astype(np.float32) * 255
    out = (1 - strength) * grey + strength * colours
    if mask_HW is not None and mask_HW.any():
        _outline(out, mask_HW, box, side)
    return out.clip(0, 255).astype(np.uint8)


def phrase_overlay(
    model: PatchModel, record: Record, pixels_HWC: np.ndarray, map_RC: np.ndarray, phrase: str, scale: tuple[float, float]
) -> np.ndarray:
    """:func:`overlay` of a phrase's map on what the model sees of the picture, with the object that the phrase names in outline."""
    region = own_region(record, phrase)
    mask = region_mask(record, region) if region is not None else None
    return overlay(pixels_HWC, map_RC, scale=scale, seen=model.preprocess.visible_box(*record.size), mask_HW=mask)


def _enlarged(map_RC: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(map_RC).resize(size, Image.Resampling.BICUBIC))


def _outline(out_HWC: np.ndarray, mask_HW: np.ndarray, box: Box, side: int) -> None:
    soft = Image.fromarray((255 * mask_HW).astype(np.uint8)).convert("F")
    inside = np.asarray(soft.resize(shown_size(box, side), Image.Resampling.BICUBIC, box=box)) > 127
    closed = ~_grown(~_grown(inside, 5), 5) | inside  # dots and stripes inside the object are not its edge
    near, far = _grown(closed, 2), _grown(closed, 3)
    out_HWC[far & ~near] = 20.0
    out_HWC[near & ~closed] = 255.0


def _grown(mask: np.ndarray, steps: int) -> np.ndarray:
    for _ in range(steps):
        padded = np.pad(mask, 1, mode="edge")
        mask = padded[1:-1, 1:-1] | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return mask


def colour_stops(count: int = 9) -> list[str]:
    """The colour scale as hexadecimal colours, lowest first, for a legend."""
    return [to_hex(matplotlib.colormaps[COLOURS](x)) for x in np.linspace(0, 1, count)]
