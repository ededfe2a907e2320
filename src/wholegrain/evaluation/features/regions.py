"""Regions of the stored picture on the model's patch grid: how much of each patch an object covers."""

from __future__ import annotations

from functools import lru_cache
from math import exp, lgamma

import numpy as np

from wholegrain.data.record import Record, Region
from wholegrain.errors import UserError

Box = tuple[float, float, float, float]


def decode_mask(runs: tuple[int, ...], size: tuple[int, int]) -> np.ndarray:
    """bool ``[height, width]`` from row-major run lengths that begin with a (possibly empty) run of zeros.

    Example:
        >>> decode_mask((1, 2, 1), (2, 2)).tolist()
        [[False, True], [True, False]]
    """
    width, height = size
    if sum(runs) != width * height or min(runs, default=0) < 0:
        raise ValueError(f"the run lengths add up to {sum(runs)}, not to {width} x {height}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)


def region_cover(record: Record, number: int, visible: Box, grid: tuple[int, int]) -> np.ndarray:
    """float64 ``[P]``, row-major over ``grid``: the share of each patch's area that region ``number`` of the record covers.

    Args:
        visible: x0, y0, x1, y1, the part of the stored picture that the model sees (``preprocess.visible_box``), cut evenly into
            patches.

    The mask is used if there is one, else the box. Shares are exact, also where patch borders fall between pixels.

    Raises:
        UserError: when the mask does not fit the picture's size.
    """
    region: Region = record.regions[number]
    width, height = record.size
    across, down = np.linspace(visible[0], visible[2], grid[1] + 1), np.linspace(visible[1], visible[3], grid[0] + 1)
    if region.mask:
        try:
            mask = decode_mask(region.mask, record.size)
        except ValueError as error:
            raise UserError(
                f"Record {record.key}, region {number} ({region.phrase!r}): {error}; prepare the data set again."
            ) from error
        sums = np.zeros((height + 1, width + 1))
        sums[1:, 1:] = mask.cumsum(0).cumsum(1)
        sums = _between(_between(sums, down, 0), across, 1)
        inside = np.diff(np.diff(sums, axis=0), axis=1)
    else:
        x0, y0, x1, y1 = region.box
        inside = np.outer(np.diff(np.clip(down, y0, max(y0, y1))), np.diff(np.clip(across, x0, max(x0, x1))))
    area = (across[1] - across[0]) * (down[1] - down[0])
    return np.clip(inside / area, 0.0, 1.0).ravel()


def _between(sums: np.ndarray, place: np.ndarray, axis: int) -> np.ndarray:
    """Running sums read at fractional places, which is exact since a pixel is evenly filled."""
    last = sums.shape[axis] - 1
    place = np.clip(place, 0, last)
    floor = np.minimum(place.astype(int), last)
    share = place - floor
    share = share[:, None] if axis == 0 else share[None, :]
    return np.take(sums, floor, axis) * (1 - share) + np.take(sums, np.minimum(floor + 1, last), axis) * share


def object_patches(cover_P: np.ndarray) -> np.ndarray:
    """bool ``[P]``: the patches that the object covers at least half as much as its best-covered one; so small and thin ones keep
    a patch."""
    return (cover_P > 0) & (cover_P >= 0.5 * cover_P.max(initial=0.0))


def best_patches(map_P: np.ndarray, tolerance: float = 1e-6) -> np.ndarray:
    """bool ``[P]``: the patches with the greatest value; several if they tie."""
    return map_P >= map_P.max() - tolerance


def thresholded(map_P: np.ndarray, tolerance: float = 1e-6) -> np.ndarray:
    """bool ``[P]``: above the middle between the map's least and greatest value; nothing for a constant map."""
    low, high = map_P.min(), map_P.max()
    return np.zeros(map_P.shape, dtype=bool) if high - low <= tolerance else (map_P - low) / (high - low) > 0.5


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two bool masks; 0 for two empty ones."""
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 0.0


@lru_cache(maxsize=1 << 16)
def chance_overlap(marked: int, area: int, patches: int) -> float:
    """The expected intersection over union of ``marked`` patches drawn at random with an object of ``area`` patches.

    Example:
        >>> round(chance_overlap(1, 1, 4), 6)
        0.25
    """
    if marked == 0 or area == 0:
        return 0.0

    def choose(n: int, k: int) -> float:
        return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)

    both = range(max(1, marked + area - patches), min(marked, area) + 1)
    every = choose(patches, marked)
    return sum(exp(choose(area, k) + choose(patches - area, marked - k) - every) * k / (marked + area - k) for k in both)


def centre_prior(grid: tuple[int, int]) -> np.ndarray:
    """float64 ``[P]``: minus the distance to the middle of the picture, in picture sides."""
    down, across = ((np.arange(n) + 0.5) / n - 0.5 for n in grid)
    return -np.hypot(down[:, None], across[None, :]).ravel()
