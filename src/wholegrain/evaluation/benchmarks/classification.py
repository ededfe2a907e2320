"""Scores classification sets: zero-shot with every control, and probes where there is a training part.

* ``NAME``: ``acc1``, ``acc5``, their expected forms and tie rate, ``majority`` (the most frequent class as the answer to everything) and
  ``mean_per_class_recall``; for two classes where that is what is quoted ``roc_auc``; for several labels a picture
  ``mean_average_precision`` and ``mean_average_precision_11`` alone. The figure that papers quote for the set stands first.
* ``NAME_linear_probe`` and ``NAME_few_shot``, if asked for: see
  :mod:`~wholegrain.evaluation.tasks.linear_probe` and :mod:`~wholegrain.evaluation.tasks.few_shot`.

The 11-point average precision ranks pictures by softmax(100 cosines) over the classes, as ELEVATER's code does; the plain one by the cosine,
as CLIP_benchmark's. Everything else does not change under a softmax.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from wholegrain.evaluation.benchmarks.items import LabelledSet, Picture
from wholegrain.evaluation.benchmarks.pictures import KeyedPictures, Pictures
from wholegrain.evaluation.benchmarks.scoring import FEW
from wholegrain.evaluation.benchmarks.statements import auc_figure
from wholegrain.evaluation.contract import EvaluatedModel
from wholegrain.evaluation.features.encode import Progress
from wholegrain.evaluation.features.feature_store import FeatureStore
from wholegrain.evaluation.result import NotSupportedError, TaskResult
from wholegrain.evaluation.scores.similarity import index_vectors, logit_scale
from wholegrain.evaluation.statistics.average_precision import mean_average_precision
from wholegrain.evaluation.statistics.rows import Rows, table
from wholegrain.evaluation.statistics.stand_ins import stand_ins
from wholegrain.evaluation.tasks.few_shot import few_shot
from wholegrain.evaluation.tasks.linear_probe import LabelledFeatures, probe
from wholegrain.evaluation.tasks.zero_shot import classified, scores_with, sentences_of, unique_names
from wholegrain.features import ImageFeatures

Classifier = Callable[[ImageFeatures], Tensor]


def score_classes(
    found: LabelledSet, model: EvaluatedModel, store: FeatureStore, *, seed: int = 0, progress: Progress | None = None
) -> TaskResult:
    """Zero-shot classification of a set."""
    pictures = Pictures(found.pictures)
    image = image_features(found.pictures, pictures, store, progress)
    scores_BC = zero_shot_classifier(found, model, store, progress)(image)
    return classification_result(found, scores_BC, [pictures.key[p] for p in found.pictures], seed, logit_scale(model))


def score_probes(
    found: LabelledSet,
    store: FeatureStore,
    *,
    linear: bool = True,
    shots: Sequence[int] = (),
    draws: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[TaskResult]:
    """What a linear classifier reads from the features, fitted on the set's training part.

    Args:
        linear: on all of it.
        shots: and on so many pictures of each class.
        draws: of the shots.

    Raises:
        NotSupportedError: when there is no training part, or pictures have several labels.
    """
    if not found.train[0] or any(len(label) != 1 for label in (*found.labels, *found.train[1])):
        raise NotSupportedError(
            f"{found.name} has no training part with one class a picture (train/ beside test/), so no probe can be fitted."
        )
    pictures = Pictures((*found.pictures, *found.train[0]))
    parts = {
        part: LabelledFeatures(index_vectors(image_features(own, pictures, store, progress)), _first(labels))
        for part, (own, labels) in {"train": found.train, "test": (found.pictures, found.labels)}.items()
    }
    keys, results = [pictures.key[picture] for picture in found.pictures], []
    if linear:
        results.append(probe(f"{found.name}_linear_probe", parts, found.classes, keys, seed=seed))
    if shots:
        several = few_shot(
            f"{found.name}_few_shot", parts["train"], parts["test"], found.classes, keys, shots=shots, draws=draws, seed=seed
        )
        results.append(several)
    return results


def image_features(
    wanted: Sequence[Picture], pictures: KeyedPictures, store: FeatureStore, progress: Progress | None = None
) -> ImageFeatures:
    """Features of ``wanted``, in that order; equal files are encoded once."""
    keys = [pictures.key[picture] for picture in wanted]
    distinct = list(dict.fromkeys(keys))
    image = store.images(pictures, distinct, progress)
    place = {key: n for n, key in enumerate(distinct)}
    return image if distinct == keys else image.select(torch.tensor([place[key] for key in keys]))


def zero_shot_classifier(found: LabelledSet, model: EvaluatedModel, store: FeatureStore, progress: Progress | None = None) -> Classifier:
    """Image features -> scores ``[B, C]``; the sentences are encoded here, once."""
    sentences = sentences_of(found.classes, found.templates)
    distinct = list(dict.fromkeys(sentences))
    text, _ = store.texts(distinct, progress)
    place = {sentence: n for n, sentence in enumerate(distinct)}
    text = text if distinct == sentences else text.select(torch.tensor([place[sentence] for sentence in sentences]))
    return lambda image: scores_with(model, image, text, len(found.classes), len(found.templates))


def classification_result(found: LabelledSet, scores_BC: Tensor, keys: Sequence[str], seed: int, scale: float = 100.0) -> TaskResult:
    """The result of scores ``[B, C]``; ``scale``: of the model, for the confidence of each answer."""
    few = [f"{len(set(keys))} pictures are too few to rank methods: look at the intervals"] if len(set(keys)) < FEW else []
    protocol = "; ".join((found.protocol, *found.notes, *few)) + "."
    if any(len(label) != 1 for label in found.labels):
        return _several(found, scores_BC, keys, protocol, seed)
    true_B = _first(found.labels)
    result = classified(found.name, keys, scores_BC, true_B, found.classes, protocol, seed, scale)
    if found.metric == "roc_auc" and len(found.classes) == 2 and len(true_B.unique()) == 2:
        score_B = (scores_BC[:, 1] - scores_BC[:, 0]).double().numpy()
        other_B = stand_ins(keys, seed)
        control_B = None if other_B is None else score_B[other_B]
        label_B, ones = true_B.numpy() == 1, np.ones(len(score_B), dtype=np.int64)
        result = replace(
            result, figures=(auc_figure("roc_auc", score_B, control_B, label_B, ones, list(keys), seed), *result.figures)
        )
    return _quoted_first(result, found.metric)


def _several(found: LabelledSet, scores_BC: Tensor, keys: Sequence[str], protocol: str, seed: int) -> TaskResult:
    true_BC = np.zeros(scores_BC.shape)
    for row, label in zip(true_BC, found.labels, strict=True):
        row[list(label)] = 1
    share_BC = (100 * scores_BC).double().softmax(1).numpy()
    figures = mean_average_precision(scores_BC.double().numpy(), share_BC, true_BC, keys, seed=seed)
    labels = [[found.classes[c] for c in label] for label in found.labels]
    none = np.full(len(keys), np.nan)
    rows = Rows(unique_names(keys), [""] * len(keys), keys, {"mean_average_precision": none}, extra={"label": labels})
    return _quoted_first(TaskResult(found.name, protocol, tuple(figures), table(rows)), found.metric)


def _quoted_first(result: TaskResult, name: str) -> TaskResult:
    figures = [
        replace(f, note="; ".join(filter(None, (f.note, "what papers quote")))) if f.name == name else f for f in result.figures
    ]
    return replace(result, figures=tuple(sorted(figures, key=lambda figure: figure.name != name)))


def _first(labels: Sequence[tuple[int, ...]]) -> Tensor:
    return torch.tensor([label[0] for label in labels])
