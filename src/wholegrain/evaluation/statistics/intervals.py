"""How sure a figure is: 95% intervals by a bootstrap over images, and the paired difference of two systems.

Items that share an image are not independent (five captions of one picture are right or wrong together), so whole images are
drawn with replacement, never single items. One draw of C images is a vector of C counts, and the mean under it is a ratio of two
dot products; so 2,000 draws are a matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

RESAMPLES = 2000
KEPT_CELLS = 1 << 23  # 32 MB
_Z = 1.959963984540054


def resample_counts(clusters: int, resamples: int = RESAMPLES, seed: int = 0, cells: int = 1 << 21) -> Iterator[np.ndarray]:
    """float32 ``[r, clusters]`` blocks, ``resamples`` rows in all: how often each cluster is drawn (rows sum to ``clusters``)."""
    few = clusters * resamples <= KEPT_CELLS
    yield from _kept_counts(clusters, resamples, seed, cells) if few else _drawn_counts(clusters, resamples, seed, cells)


@lru_cache(maxsize=4)
def _kept_counts(clusters: int, resamples: int, seed: int, cells: int) -> tuple[np.ndarray, ...]:
    """Drawing takes far longer than the products that follow, and many figures are over the same images."""
    blocks = tuple(_drawn_counts(clusters, resamples, seed, cells))
    for block in blocks:
        block.setflags(write=False)
    return blocks


def _drawn_counts(clusters: int, resamples: int, seed: int, cells: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    step = max(1, cells // max(clusters, 1))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(0, clusters, size=(rows, clusters), dtype=np.int32).astype(np.int64)
        drawn += np.arange(rows)[:, None] * clusters
        yield np.bincount(drawn.ravel(), minlength=rows * clusters).reshape(rows, clusters).astype(np.float32)


def cluster_codes(clusters: Sequence | np.ndarray) -> np.ndarray:
    """int64 codes 0..C-1 of the cluster names."""
    return np.unique(np.asarray(clusters), return_inverse=True)[1].ravel()


def bootstrap_mean(
    values: np.ndarray,
    clusters: Sequence | np.ndarray,
    *,
    shares: bool | Sequence[bool] = True,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile 95% interval of the mean, images drawn with replacement.

    Args:
        values: ``[N]`` or ``[N, F]``; F figures over the same items are resampled together.
        clusters: ``[N]`` the image of each item.
        shares: whether the values (of each figure) are hits between 0 and 1.

    Returns:
        low, high: ``[F]`` (scalars as 0-d arrays for ``[N]``). Where all hits are 0, or all are 1, no resample differs and the
        bootstrap would claim certainty; then the Wilson interval of as many trials as there are images is given.

    Example:
        >>> low, high = bootstrap_mean(np.array([0.0, 1.0] * 50), np.arange(100))
        >>> bool(0.35 < low < 0.5 < high < 0.65)
        True
    """
    values_NF = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    codes = cluster_codes(clusters)
    count = int(codes.max(initial=-1)) + 1
    if count == 0:
        nothing = np.full(np.shape(values)[1:], np.nan)
        return nothing, nothing.copy()
    # means are taken from a centre, so that float32 weights lose nothing on large ranks
    centre_F = values_NF.mean(0)
    sums_CF = np.zeros((count, values_NF.shape[1]))
    np.add.at(sums_CF, codes, values_NF - centre_F)
    sizes_C = np.bincount(codes, minlength=count).astype(np.float64)
    both = np.concatenate([sums_CF, sizes_C[:, None]], 1)
    drawn = np.concatenate([block @ both for block in resample_counts(count, resamples, seed)])
    low_F, high_F = np.percentile(drawn[:, :-1] / drawn[:, -1:], [2.5, 97.5], axis=0) + centre_F
    low_F, high_F = (np.clip(x, values_NF.min(0), values_NF.max(0)) for x in (low_F, high_F))  # undo rounding at 0 and 1
    for column in np.flatnonzero((np.ptp(values_NF, axis=0) == 0) & np.asarray(shares)):
        if centre_F[column] in (0.0, 1.0):
            low_F[column], high_F[column] = wilson(centre_F[column], count)
    return low_F.reshape(np.shape(values)[1:]), high_F.reshape(np.shape(values)[1:])


def bootstrap_over_seeds(
    values_SN: np.ndarray, clusters: Sequence | np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Percentile 95% interval of the mean over S training seeds and N items: seeds and images are drawn, each with replacement.

    With one seed this is the interval over images alone. With few seeds it is too narrow by about sqrt(1 - 1 / S) in what the seeds
    add, since a bootstrap of S values has the spread of S, not of S - 1.

    Example:
        >>> low, high = bootstrap_over_seeds(np.array([[0.0] * 50, [1.0] * 50]), np.arange(50))    # the seeds alone differ
        >>> bool(low == 0.0 and high == 1.0)
        True
    """
    means = drawn_means(values_SN, clusters, resamples=resamples, seed=seed)
    low, high = np.clip(np.percentile(means, [2.5, 97.5]), values_SN.min(), values_SN.max())
    return float(low), float(high)


def drawn_means(
    values_SN: np.ndarray, clusters: Sequence | np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """``[resamples]`` means over S training seeds and N items under draws of both; the same draws for the same seed, S and clusters.

    So values of several systems, or of one at several times, that are resampled one after the other are resampled together.
    """
    codes = cluster_codes(clusters)
    count, seeds = int(codes.max()) + 1, len(values_SN)
    centre = float(values_SN.mean())
    sums_CS = np.zeros((count, seeds))
    np.add.at(sums_CS, codes, values_SN.T - centre)
    sizes_C = np.bincount(codes, minlength=count).astype(np.float64)
    both = np.concatenate([sums_CS, sizes_C[:, None]], 1)
    drawn = np.concatenate([block @ both for block in resample_counts(count, resamples, seed)])
    return (drawn[:, :-1] * drawn_seeds(seeds, resamples=resamples, seed=seed)).sum(1) / drawn[:, -1] + centre


def drawn_seeds(seeds: int, *, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """``[resamples, seeds]``: the weight of each training seed in the draws of :func:`drawn_means`; rows sum to 1."""
    return np.concatenate(list(resample_counts(seeds, resamples, seed + 1))) / seeds


def bootstrap_statistic(
    statistic: Callable[[np.ndarray], np.ndarray],
    clusters: Sequence | np.ndarray,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """The same for any statistic of weighted items.

    Args:
        statistic: ``weights [r, N] -> values [r]``; the weight is how often the item's image was drawn.
        clusters: ``[N]``.
    """
    codes = cluster_codes(clusters)
    cells = max(1, (1 << 21) * (int(codes.max()) + 1) // max(len(codes), 1))
    drawn = [statistic(block[:, codes]) for block in resample_counts(int(codes.max()) + 1, resamples, seed, cells)]
    low, high = np.nanpercentile(np.concatenate(drawn), [2.5, 97.5])
    return float(low), float(high)


def weighted_median(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A statistic for :func:`bootstrap_statistic`: the (lower) median of ``values [N]`` under weights ``[r, N]``."""
    order = np.argsort(values, kind="stable")
    ascending = np.asarray(values, dtype=np.float64)[order]

    def statistic(weights: np.ndarray) -> np.ndarray:
        running = np.cumsum(weights[:, order], axis=1)
        return ascending[(running >= running[:, -1:] / 2).argmax(1)]

    return statistic


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share of ``count`` trials.

    Example:
        >>> [round(x, 3) for x in wilson(1.0, 10)]
        [0.722, 1.0]
    """
    middle = share + _Z**2 / (2 * count)
    spread = _Z * np.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    scale = 1 + _Z**2 / count
    return float(max(0.0, (middle - spread) / scale)), float(min(1.0, (middle + spread) / scale))


@dataclass(frozen=True)
class Difference:
    """System a minus system b on the same items.

    Attributes:
        value, low, high: the mean difference and its 95% interval (paired bootstrap over images).
        p: two-sided p value of "no difference" by random sign flips of whole images' differences; at least 1 / (flips + 1).
        count: items. images: clusters.
    """

    value: float
    low: float
    high: float
    p: float
    count: int
    images: int


def paired_difference(
    a: np.ndarray,
    b: np.ndarray,
    clusters: Sequence | np.ndarray,
    *,
    resamples: int = RESAMPLES,
    flips: int = 9999,
    seed: int = 0,
) -> Difference:
    """Compares two systems item by item; ``a`` and ``b`` are ``[N]`` values of the same items in the same order.

    Example:
        >>> paired_difference(np.ones(20), np.zeros(20), np.arange(20)).p
        0.0001
    """
    gap = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    if len(gap) == 0:
        raise ValueError("paired_difference needs at least one item")
    codes = cluster_codes(clusters)
    images = int(codes.max()) + 1
    low, high = _bootstrap_gap(gap, codes, resamples, seed)
    sums_C = np.bincount(codes, weights=gap, minlength=images)
    observed = abs(sums_C.sum()) - 1e-9  # the identity flip must count itself in spite of rounding
    rng, extreme, step = np.random.default_rng(seed + 1), 0, max(1, (1 << 21) // images)
    for start in range(0, flips, step):
        signs = rng.integers(0, 2, size=(min(step, flips - start), images), dtype=np.int8) * 2.0 - 1.0
        extreme += int((np.abs(signs @ sums_C) >= observed).sum())
    return Difference(float(gap.mean()), low, high, (extreme + 1) / (flips + 1), len(gap), images)


def _bootstrap_gap(gap: np.ndarray, codes: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    low, high = bootstrap_mean(gap, codes, shares=False, resamples=resamples, seed=seed)
    return float(low), float(high)
