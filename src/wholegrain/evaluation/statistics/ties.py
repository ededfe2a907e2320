"""When two scores are equal, and what a tie is worth.

A model that answers the same to everything must score chance, not 0 and not 100. So every task reports three things apart:

* the *strict* score, the convention of the field: only a strictly greater score wins, a tie is wrong;
* the *expected* score, if ties were broken by a fair coin (a random tiny number added to each score);
* the *tie rate*, the share of items whose outcome hangs on a tie.

Two scores within :data:`TIE` are equal: float32 matrix products round differently with the block's shape, so exactly equal
features do not give exactly equal scores.
"""

from __future__ import annotations

from math import comb, factorial, prod

import numpy as np
import torch

TIE = 1e-6


def classes(scores_NK: np.ndarray, tolerance: float | None = None) -> np.ndarray:
    """Integer ranks ``[N, K]`` within each row: equal scores share one, a greater score has a greater one.

    Scores that form a chain with steps within the tolerance are all equal, so that equality is transitive.

    Example:
        >>> classes(np.array([[0.5, 0.1, 0.5 + 1e-8]])).tolist()
        [[1, 0, 1]]
    """
    scores_NK = np.asarray(scores_NK, dtype=np.float64)
    if tolerance is None:
        tolerance = TIE * max(1.0, float(np.abs(scores_NK).max(initial=0.0)))
    order = np.argsort(scores_NK, axis=1, kind="stable")
    ascending = np.take_along_axis(scores_NK, order, 1)
    steps = np.diff(ascending, axis=1, prepend=ascending[:, :1]) > tolerance
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.cumsum(steps, axis=1), 1)
    return ranks


def first_true_within(k: np.ndarray | int, better: np.ndarray, tied: np.ndarray, true_tied: np.ndarray) -> np.ndarray:
    """The chance that a true candidate is among the first k, if ties are broken at random.

    Args:
        k: places looked at.
        better: false candidates with a greater score than the best true one.
        tied: false candidates with the same score as the best true one.
        true_tied: true candidates with that score, the best one included (at least 1).

    Returns:
        float64; ``1 - C(tied, r) / C(tied + true_tied, r)`` with ``r = k - better`` places left for the tied group. With nothing
        better and every candidate tied it is the chance level of a random ranking.

    Example:
        >>> float(first_true_within(1, np.array(0), np.array(3), np.array(1)))     # four candidates, all equal
        0.25
    """
    left, t, m = np.broadcast_arrays(np.maximum(np.asarray(k) - np.asarray(better), 0), tied, true_tied)
    left, t, m = (np.asarray(x, dtype=np.int64) for x in (np.minimum(left, t + 1), t, m))
    # queries are many, ways of being tied few: each is worked out once
    code = (left * (t.max(initial=0) + 1) + t) * (m.max(initial=0) + 1) + m
    _, first, back = np.unique(code, return_index=True, return_inverse=True)
    return _hit(*(x.ravel()[first] for x in (left, t, m)))[back.reshape(code.shape)]


def _hit(left: np.ndarray, tied: np.ndarray, true_tied: np.ndarray) -> np.ndarray:
    r, t, m = (torch.from_numpy(x.astype(np.float64)) for x in (left, tied, true_tied))
    inside = torch.minimum(r, t)
    log_miss = torch.lgamma(t + 1) - torch.lgamma(t - inside + 1) - torch.lgamma(t + m + 1) + torch.lgamma(t + m - inside + 1)
    hit = 1 - torch.exp(log_miss)
    hit = torch.where(r > t, torch.ones_like(hit), torch.where(r <= 0, torch.zeros_like(hit), hit))
    return np.round(hit.numpy(), 12)


def wins(scores_N: np.ndarray, others_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Strict (0 or 1), expected (0, 1/2 or 1) and tied (0 or 1) for "the first score is greater than the second", item by
    item."""
    ranks = classes(np.stack([scores_N, others_N], 1))
    strict, tied = ranks[:, 0] > ranks[:, 1], ranks[:, 0] == ranks[:, 1]
    return strict.astype(np.float64), strict + 0.5 * tied, tied.astype(np.float64)


def all_above(above_NA: np.ndarray, below_NB: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Strict, expected and tied for "every score in ``above`` is greater than every one in ``below``", row by row.

    If the smallest of ``above`` and the greatest of ``below`` share a class with a members above and b below, a fair breaking of
    ties puts the a in front with chance ``1 / C(a + b, a)``.

    Example:
        >>> all_above(np.zeros((1, 2)), np.zeros((1, 2)))[1].round(4).tolist()      # four equal scores: 1/6
        [0.1667]
    """
    count = above_NA.shape[1]
    ranks = classes(np.concatenate([above_NA, below_NB], 1))
    above, below = ranks[:, :count], ranks[:, count:]
    low, high = above.min(1), below.max(1)
    a, b = (above == low[:, None]).sum(1), (below == high[:, None]).sum(1)
    fair = np.array([[1.0 / comb(i + j, i) for j in range(below.shape[1] + 1)] for i in range(count + 1)])
    strict, tied = low > high, low == high
    return strict.astype(np.float64), strict + tied * fair[a, b], tied.astype(np.float64)


def in_front(above_NA: np.ndarray, below_NA: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share of the first A places of each row that ``above`` takes, strict (it loses every tie) and expected.

    With as many above as below this is also the share of all that stand in their half.

    Example:
        >>> [x.tolist() for x in in_front(np.array([[4.0, 1.0], [2.0, 2.0]]), np.array([[3.0, 2.0], [2.0, 2.0]]))]
        [[0.5, 0.0], [0.5, 0.5]]
    """
    count = above_NA.shape[1]
    ranks = classes(np.concatenate([above_NA, below_NA], 1))
    above, below = ranks[:, :count], ranks[:, count:]
    edge = -np.sort(-ranks, axis=1)[:, count - 1 : count]  # the class of the last place that counts
    sure, tied, rivals = ((above > edge).sum(1), (above == edge).sum(1), (below == edge).sum(1))
    left = count - sure - (below > edge).sum(1)
    strict = sure + np.maximum(left - rivals, 0)
    return strict / count, (sure + left * tied / np.maximum(tied + rivals, 1)) / count


def in_order(scores_NK: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Strict, expected and tied for "each score is greater than the next", row by row.

    Equal scores that stand side by side are in order with chance 1 / k! for k of them.

    Example:
        >>> in_order(np.array([[3.0, 2.0, 1.0], [3.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 2.0, 1.0]]))[1].round(4).tolist()
        [1.0, 0.5, 0.1667, 0.0]
    """
    steps = -np.diff(classes(scores_NK), axis=1)
    strict, falling = np.all(steps > 0, axis=1), np.all(steps >= 0, axis=1)
    fair = np.array([1.0 / _orders(row) if down else 0.0 for row, down in zip(steps, falling, strict=True)])
    return np.asarray(strict, dtype=np.float64), fair, np.asarray(falling & ~strict, dtype=np.float64)


def _orders(steps_K: np.ndarray) -> int:
    """In how many orders the scores between these steps may stand, those in a run of equal ones being exchanged."""
    ends = np.concatenate([[0], np.flatnonzero(steps_K > 0) + 1, [len(steps_K) + 1]])
    return prod(factorial(int(length)) for length in np.diff(ends))
