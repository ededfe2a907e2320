"""Mean average precision of multi-label classification, plain and at 11 recalls, with interval, chance and control.

``mean_average_precision`` is CLIP_benchmark's: for each class the mean, over its pictures, of the precision at their rank. ``…_11`` is VOC 2007's
and ELEVATER's: the mean over the recalls 0, 0.1, … 1 of the best precision at that recall or a higher one. Equal scores are ordered at random
by the seed. Chance is the mean over 20 random orders.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wholegrain.evaluation.result import Figure, NotSupportedError
from wholegrain.evaluation.statistics.intervals import bootstrap_statistic
from wholegrain.evaluation.statistics.stand_ins import stand_ins

POINTS = np.linspace(0, 1, 11)


def average_precision(true_rN: np.ndarray, weight_rN: np.ndarray | None = None) -> np.ndarray:
    """``[r, 2]``, plain and 11-point, of rows of true (1) and false (0) in falling order of their scores.

    Args:
        weight_rN: how often each is drawn; default once.

    Example:
        >>> average_precision(np.array([[1, 0, 1, 0]])).round(3).tolist()     # precision 1 and 2/3
        [[0.833, 0.848]]
    """
    weight = np.ones(true_rN.shape) if weight_rN is None else weight_rN
    hits, seen = np.cumsum(weight * true_rN, 1), np.cumsum(weight, 1)
    precision = hits / np.maximum(seen, 1e-12)
    total = hits[:, -1:]
    plain = (precision * weight * true_rN).sum(1) / np.maximum(total[:, 0], 1e-12)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = hits / np.maximum(total, 1e-12)
    rows = np.arange(len(recall))
    eleven = np.mean([best[rows, (recall >= point - 1e-9).argmax(1)] for point in POINTS], 0)
    lost = total[:, 0] <= 0
    return np.where(lost[:, None], np.nan, np.stack([plain, eleven], 1))


def step_average_precision(scores_1N: np.ndarray, true_1N: np.ndarray, weight_rN: np.ndarray) -> np.ndarray:
    """``[r]`` average precisions in which equal scores are one step: ``sum_t (R_t - R_(t-1)) P_t`` over the distinct scores t, as torchmetrics
    and scikit-learn take it. So the order of equal scores does not matter, and a constant score has the share of true ones. NaN where
    nothing true is drawn.

    Args:
        scores_1N, true_1N: of N items; scores count as equal where they are (:func:`~wholegrain.evaluation.statistics.ties.classes`).
        weight_rN: how often each is drawn.

    Example:
        >>> step_average_precision(np.array([[3, 2, 2, 1]]), np.array([[1, 1, 0, 0]]), np.ones((1, 4))).round(3).tolist()
        [0.833]
    """
    order = np.argsort(-scores_1N[0], kind="stable")
    scores, true, weight = scores_1N[0][order], true_1N[0][order].astype(np.float64), weight_rN[:, order]
    last = np.flatnonzero(np.append(np.diff(scores) != 0, True))
    hits, seen = np.cumsum(weight * true, 1)[:, last], np.cumsum(weight, 1)[:, last]
    gained, total = np.diff(hits, axis=1, prepend=0.0), hits[:, -1]
    found = (gained * hits / np.maximum(seen, 1e-12)).sum(1)
    return np.divide(found, total, out=np.full(len(found), np.nan), where=total > 0)


def mean_average_precision(
    score_BC: np.ndarray, share_BC: np.ndarray, true_BC: np.ndarray, keys: Sequence[str], *, resamples: int = 400, seed: int = 0
) -> list[Figure]:
    """Both figures.

    Args:
        score_BC: ranks pictures for the plain figure.
        share_BC: ranks them for the 11-point figure.
        true_BC: 0 and 1.

    Raises:
        NotSupportedError: when no class has both a picture and one that is not of it.
    """
    present = np.flatnonzero((true_BC.sum(0) > 0) & (true_BC.sum(0) < len(true_BC)))
    if not len(present):
        raise NotSupportedError("Every class is in all pictures or in none, so there is nothing to rank; check the labels.")
    rng = np.random.default_rng([seed, 12])
    stand_in = stand_ins(keys, seed)
    chance = np.mean([[average_precision(rng.permutation(true_BC[:, c])[None])[0] for c in present] for _ in range(20)], (0, 1))
    found = []
    for column, (name, score) in enumerate((("mean_average_precision", score_BC), ("mean_average_precision_11", share_BC))):
        orders = [np.lexsort((rng.random(len(score)), -score[:, c])) for c in present]

        def mean(weights: np.ndarray, column: int = column, orders: list[np.ndarray] = orders) -> np.ndarray:
            each = [
                average_precision(true_BC[order, c][None], weights[:, order])[:, column]
                for c, order in zip(present, orders, strict=True)
            ]
            return np.nanmean(each, axis=0)

        value = float(mean(np.ones((1, len(score))))[0])
        control = None
        if stand_in is not None:
            mixed = [np.lexsort((rng.random(len(score)), -score[stand_in, c])) for c in present]
            control = float(mean(np.ones((1, len(score))), orders=mixed)[0])
        low, high = bootstrap_statistic(mean, list(keys), resamples=resamples, seed=seed)
        found.append(Figure(name, value, min(low, value), max(high, value), len(score), float(chance[column]), control))
    return found
