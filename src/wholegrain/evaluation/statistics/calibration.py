"""Calibration: does a model that is 80% sure have 80% right?

Confidences are put into bins, and the expected calibration error (Naeini et al., AAAI 2015; Guo et al., ICML 2017, equation 3) is the mean over
items of the gap between a bin's accuracy and its mean confidence::

    ECE = sum_b n_b / N |accuracy_b - confidence_b|

* ``ece``: 15 bins of equal width, (0, 1/15], ..., (14/15, 1], Guo's;
* ``ece_adaptive``: up to 15 bins of as equal numbers of items as equal confidences allow (Nguyen & O'Connor, EMNLP 2015), so that no bin is of a
  few items. Their bounds are quantiles of the items, and stay as they are when items are resampled.

Both are biased upward in small sets, as every bin's noise counts as a gap; so is the interval, whose draws have noise of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wholegrain.evaluation.statistics.intervals import wilson

BINS = 15


def equal_width(bins: int = BINS) -> np.ndarray:
    """Bounds ``[bins + 1]`` of bins of equal width between 0 and 1."""
    return np.linspace(0.0, 1.0, bins + 1)


def equal_mass(confidence_N: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Bounds of at most ``bins`` bins with as equal numbers of items as equal confidences allow.

    Example:
        >>> equal_mass(np.array([0.2, 0.4, 0.6, 0.8]), 2).tolist(), equal_mass(np.array([0.5, 0.5, 0.5]), 2).tolist()
        ([0.0, 0.4, 1.0], [0.0, 0.5, 1.0])
    """
    ascending = np.sort(np.asarray(confidence_N, dtype=np.float64))
    last = np.ceil(np.arange(1, bins) * len(ascending) / bins).astype(int) - 1  # the last item of each bin but the last
    return np.unique(np.concatenate([[0.0], ascending[np.maximum(last, 0)], [1.0]]))


def bin_of(confidence_N: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """The bin of each confidence; a bound belongs to the bin below it."""
    return np.searchsorted(bounds[1:-1], np.asarray(confidence_N, dtype=np.float64), side="left")


def calibration_error(
    confidence_N: np.ndarray, correct_N: np.ndarray, bounds: np.ndarray, weight_rN: np.ndarray | None = None
) -> np.ndarray:
    """``[r]`` expected calibration errors.

    Args:
        confidence_N: 0..1.
        correct_N: 0 or 1, or the chance to be right where ties are broken at random.
        bounds: of the bins.
        weight_rN: how often each item is drawn; default once.

    Example:
        >>> calibration_error(np.array([0.9, 0.9, 0.6]), np.array([1, 0, 1]), equal_width(2)).round(4).tolist()     # |2/3 - 0.8|
        [0.1333]
    """
    weight = np.ones((1, len(confidence_N))) if weight_rN is None else np.asarray(weight_rN, dtype=np.float64)
    gaps_NB = np.zeros((len(confidence_N), len(bounds) - 1))
    gaps_NB[np.arange(len(confidence_N)), bin_of(confidence_N, bounds)] = np.asarray(correct_N) - np.asarray(confidence_N)
    return np.abs(weight @ gaps_NB).sum(1) / np.maximum(weight.sum(1), 1e-12)


@dataclass(frozen=True)
class Bin:
    """A bin with items.

    Attributes:
        low, high: its bounds.
        count: items in it.
        confidence, accuracy: their means.
        accuracy_low, accuracy_high: Wilson's 95% interval of the accuracy, items taken as independent.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float


def reliability(confidence_N: np.ndarray, correct_N: np.ndarray, bounds: np.ndarray) -> list[Bin]:
    """The bins that have items, from the least sure: the points of a reliability diagram."""
    place_N, found = bin_of(confidence_N, bounds), []
    for b in np.unique(place_N):
        here = place_N == b
        accuracy, count = float(np.mean(np.asarray(correct_N)[here])), int(here.sum())
        found.append(
            Bin(float(bounds[b]), float(bounds[b + 1]), count, float(np.mean(np.asarray(confidence_N)[here])), accuracy, *wilson(accuracy, count))
        )
    return found
