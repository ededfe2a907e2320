"""Scores pictures that are ranked for each class, by the mean over classes of the average precision among the class's pictures (COLA)."""

from __future__ import annotations

import numpy as np
import torch

from wholegrain.evaluation.benchmarks.classification import image_features
from wholegrain.evaluation.benchmarks.items import ClassRanking
from wholegrain.evaluation.benchmarks.pictures import Pictures
from wholegrain.evaluation.benchmarks.scoring import FEW
from wholegrain.evaluation.contract import EvaluatedModel
from wholegrain.evaluation.features.encode import Progress, distinct_texts
from wholegrain.evaluation.features.feature_store import FeatureStore
from wholegrain.evaluation.result import Figure, NotSupportedError, TaskResult
from wholegrain.evaluation.scores.similarity import Scorer
from wholegrain.evaluation.statistics.average_precision import step_average_precision
from wholegrain.evaluation.statistics.intervals import bootstrap_statistic
from wholegrain.evaluation.statistics.rows import Rows, table
from wholegrain.evaluation.statistics.stand_ins import stand_ins
from wholegrain.evaluation.statistics.ties import classes

RESAMPLES = 400
ORDERS = 20
"""Random orders behind the chance level."""


def score_ranking(
    found: ClassRanking, model: EvaluatedModel, store: FeatureStore, *, seed: int = 0, progress: Progress | None = None
) -> TaskResult:
    """``mean_average_precision``, its interval over pictures, chance and control; an item is a class.

    Raises:
        NotSupportedError: when no class has both a picture among its own that shows it and one that does not.
    """
    shown, counted = np.array(found.shown, dtype=bool), np.array(found.counted, dtype=bool)
    ranked = np.flatnonzero((shown & counted).any(0) & (~shown & counted).any(0))
    if not len(ranked):
        raise NotSupportedError(f"No class of {found.name} has a picture that shows it and one that does not; check its pictures.")
    pictures = Pictures(found.pictures)
    image = image_features(found.pictures, pictures, store, progress)
    texts, place = distinct_texts(found.classes)
    text, cut = store.texts(texts, progress)
    scorer = Scorer(image, text.select(place), model)
    scores_BC = torch.cat([block for _, block in scorer.blocks()]).double().numpy()
    keys = [pictures.key[picture] for picture in found.pictures]
    figure, own_C = _figure(scores_BC, shown, counted, ranked, keys, seed)
    few = [f"{len(set(keys))} pictures are too few to rank methods: look at the intervals"] if len(set(keys)) < FEW else []
    left = [f"{len(found.classes) - len(ranked):,} classes left out, whose pictures all show it, or none does"] if len(ranked) < len(found.classes) else []
    short = [f"{sum(cut):,} of {len(texts):,} texts were cut at the model's context length"] if any(cut) else []
    head = f"{len(ranked):,} classes on {len(keys):,} pictures: {found.protocol}"
    rows = Rows(
        [found.classes[c] for c in ranked], [""] * len(ranked), [found.classes[c] for c in ranked], {figure.name: own_C},
        extra={"pictures": counted[:, ranked].sum(0).tolist(), "shown": (shown & counted)[:, ranked].sum(0).tolist()},
    )  # fmt: skip
    return TaskResult(found.name, "; ".join((head, *found.notes, *left, *few, *short)) + ".", (figure,), table(rows))


def _figure(
    scores_BC: np.ndarray, shown: np.ndarray, counted: np.ndarray, ranked: np.ndarray, keys: list[str], seed: int
) -> tuple[Figure, np.ndarray]:
    """The figure, and the average precision of each class."""
    rng = np.random.default_rng([seed, 13])
    stand_in = stand_ins(keys, seed)
    places = [np.flatnonzero(counted[:, c]) for c in ranked]

    def each(weights: np.ndarray, ranks_BC: np.ndarray) -> np.ndarray:
        """``[C, r]``."""
        parts = [(ranks_BC[n, c][None], shown[n, c][None], weights[:, n]) for n, c in zip(places, ranked, strict=True)]
        return np.stack([step_average_precision(*part) for part in parts])

    own, once = classes(scores_BC.T).T, np.ones((1, len(keys)))
    own_C = each(once, own)[:, 0]
    chance = float(np.mean([each(once, rng.permuted(np.arange(own.size).reshape(own.shape), axis=0)).mean() for _ in range(ORDERS)]))
    control = None if stand_in is None else float(each(once, own[stand_in]).mean())

    def mean(draws: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            found = each(draws, own)
        return np.where(np.isfinite(found), found, 0.0).sum(0) / np.maximum(np.isfinite(found).sum(0), 1)

    low, high = bootstrap_statistic(mean, keys, resamples=RESAMPLES, seed=seed)
    value = float(own_C.mean())
    note = f"mean over {len(ranked)} classes; equal scores are one step"
    return Figure("mean_average_precision", value, min(low, value), max(high, value), len(ranked), chance, control, note=note), own_C
