"""How much training a figure takes to reach a level: the first crossing of a curve that is known at a few budgets.

Between two budgets the figure is taken to be linear in the logarithm of what is spent (images, seconds), as such curves are drawn. A place on
the curve is a number: k is budget k of B, k + 0.5 the middle between it and the next on the logarithmic scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

UNTRAINED, NEVER = -np.inf, np.inf
"""Places: reached before any training, and not within the largest budget."""


@dataclass(frozen=True)
class Spent:
    """What it takes, and its 95% interval.

    Attributes:
        value, low, high: 0 is without training, infinity not within the largest budget, and the smallest budget that budget or less.
    """

    value: float
    low: float
    high: float


def first_reached(values_RB: np.ndarray, level_R: np.ndarray, start_R: np.ndarray | None = None, *, better: int = 1) -> np.ndarray:
    """The first place at which each of R curves reaches its level.

    Args:
        values_RB: the figure at B budgets, the smallest first.
        level_R: what is to be reached.
        start_R: the figure before training; ``None`` if it is not known.
        better: 1 if more is better, -1 if less is.

    Returns:
        ``[R]`` places; 0 where the smallest budget is enough (perhaps less would have been), :data:`UNTRAINED`, :data:`NEVER`.

    Example:
        >>> first_reached(np.array([[0.2, 0.4, 0.8]]), np.array([0.5])).tolist()
        [1.25]
    """
    gap_RB = better * (values_RB - level_R[:, None])
    there_RB = gap_RB >= 0
    first_R = there_RB.argmax(1)
    row, before_R = np.arange(len(gap_RB)), np.maximum(first_R - 1, 0)
    below, above = gap_RB[row, before_R], gap_RB[row, first_R]
    with np.errstate(invalid="ignore", divide="ignore"):
        place_R = np.where(first_R > 0, before_R - below / (above - below), 0.0)
    place_R = np.where(there_RB.any(1), place_R, NEVER)
    return place_R if start_R is None else np.where(better * (start_R - level_R) >= 0, UNTRAINED, place_R)


def spent_at(place_R: np.ndarray, spent_RB: np.ndarray) -> np.ndarray:
    """``[R]`` what is spent at places of curves; ``spent_RB`` is what each has spent at B budgets, above 0.

    Example:
        >>> spent_at(np.array([0.5, UNTRAINED, NEVER]), np.array([[100.0, 400.0]] * 3)).round(9).tolist()
        [200.0, 0.0, inf]
    """
    log_RB = np.log(spent_RB)
    inside_R = np.clip(place_R, 0, log_RB.shape[1] - 1)
    low_R = np.minimum(inside_R.astype(int), log_RB.shape[1] - 1)
    high_R = np.minimum(low_R + 1, log_RB.shape[1] - 1)
    row, part_R = np.arange(len(log_RB)), inside_R - low_R
    found = np.exp(log_RB[row, low_R] * (1 - part_R) + log_RB[row, high_R] * part_R)
    return np.where(np.isneginf(place_R), 0.0, np.where(np.isposinf(place_R), np.inf, found))


def span(value: float, drawn_R: np.ndarray) -> Spent:
    """The value with the interval of its draws, some of which may be infinite; no two are averaged."""
    low, high = np.quantile(drawn_R, [0.025, 0.975], method="inverted_cdf")
    return Spent(value, float(low), float(high))
