"""Zero-shot classification: which class name, put into a sentence, fits the picture best?

The classes are the labels of the data set's records. Each class's templates are filled, encoded, made unit vectors, averaged, and
made unit again (Radford et al. 2021, section 3.1.4); a joint scorer averages its scores over the templates instead. ``acc1``,
``acc5`` and ``mean_per_class_recall`` have the names of CLIP_benchmark. Chance is k / classes; ``majority`` is what the most frequent class
would score as the answer to everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from wholegrain.errors import UserError
from wholegrain.evaluation.contract import EvaluatedData, EvaluatedModel
from wholegrain.evaluation.features.encode import Encoded, default_needs, encode_keys, encode_texts, split_keys
from wholegrain.evaluation.result import Figure, NotSupportedError, TaskResult
from wholegrain.evaluation.scores.similarity import index_vectors, logit_scale, similarity, unit
from wholegrain.evaluation.statistics.intervals import bootstrap_statistic
from wholegrain.evaluation.statistics.rows import Rows, figures, table
from wholegrain.evaluation.statistics.stand_ins import stand_ins
from wholegrain.evaluation.statistics.ties import TIE, first_true_within
from wholegrain.evaluation.tasks.templates import templates_of
from wholegrain.features import ImageFeatures, TextFeatures

TEMPLATES = ("a photo of a {}.",)


def labelled(dataset: EvaluatedData, split: str) -> tuple[list[str], list[str]]:
    """Keys and labels of the split's records that have one; two empty lists if none has."""
    found = [(key, label) for key in split_keys(dataset, split) if (label := dataset.record(key).label) is not None]
    return [key for key, _ in found], [label for _, label in found]


def class_names(dataset: EvaluatedData) -> tuple[str, ...]:
    """All labels of the data set, sorted; those of every split, so that the same classes compete whichever split is tested."""
    return tuple(
        sorted({record.label for split in dataset.splits for record in dataset.records(split) if record.label is not None})
    )


def zero_shot(
    model: EvaluatedModel,
    dataset: EvaluatedData,
    split: str = "test",
    *,
    templates: Sequence[str] = TEMPLATES,
    known: Encoded | None = None,
    seed: int = 0,
    batch: int = 64,
) -> TaskResult:
    """Classifies the labelled images of a split.

    Args:
        templates: sentences with ``{}`` in the place of the class name, or names (:func:`~wholegrain.evaluation.tasks.templates.templates_of`).
        known: features that are there already.

    Raises:
        NotSupportedError: when fewer than two classes have images.
        UserError: when a template has no ``{}`` and is no name.
    """
    templates = templates_of(templates)
    keys, labels = labelled(dataset, split)
    classes = class_names(dataset) if labels else ()
    if len(classes) < 2:
        raise NotSupportedError(f"The records of the split {split!r} have no labels of two classes; choose labelled data.")
    image = encode_keys(model, dataset, keys, default_needs(model), batch=batch, known=known)
    scores_BC = class_scores(model, image, classes, templates, batch)
    prompts = f"{len(templates)} prompts" if len(templates) > 1 else f"the prompt {''.join(templates)!r}"
    protocol = (
        f"{len(keys):,} images of the split {split!r}, {len(classes):,} classes (all its labels), {prompts}: the class is "
        "the unit mean of its prompts' unit vectors."
    )
    true_B = torch.tensor([classes.index(label) for label in labels])
    return classified("zero_shot", keys, scores_BC, true_B, classes, protocol, seed, logit_scale(model))


def classified(
    task: str, keys: Sequence[str], scores_BC: Tensor, true_B: Tensor, classes: Sequence[str], protocol: str, seed: int, scale: float = 100.0
) -> TaskResult:
    """The result of scores ``[B, C]`` of images with classes.

    Args:
        keys: of the images; one that comes twice is one cluster.
        true_B: int64, the place of each image's class.
        scale: what a softmax multiplies scores by; each item keeps the confidence of its answer
            (:mod:`~wholegrain.evaluation.tasks.calibration`).
    """
    values = class_values(scores_BC, true_B)
    other_B = stand_ins(keys, seed)
    shuffled = {} if other_B is None else class_values(scores_BC[torch.from_numpy(other_B)], true_B)
    chance = {f"acc{k}{end}": min(k / len(classes), 1.0) for k in (1, 5) for end in ("", "_expected")}
    count_C = torch.bincount(true_B, minlength=len(classes))
    values["majority"] = (true_B == int(count_C.argmax())).double().numpy()
    extra = {"label": [classes[c] for c in true_B.tolist()], "predicted": [classes[c] for c in scores_BC.argmax(1).tolist()]}
    extra["confidence"] = (scale * scores_BC.double()).softmax(1).amax(1).tolist()
    rows = Rows(unique_names(keys), [""] * len(keys), keys, values, chance, shuffled, extra=extra)
    notes = {"majority": "the most frequent class"}
    per_class = per_class_figure(values["acc1_expected"], shuffled.get("acc1_expected"), true_B.numpy(), keys, len(classes), seed)
    return TaskResult(task, protocol, (*figures(rows, notes=notes, seed=seed), per_class), table(rows))


def unique_names(keys: Sequence[str]) -> list[str]:
    """The keys, with a number behind those that come again.

    Example:
        >>> unique_names(["a", "b", "a"])
        ['a', 'b', 'a#1']
    """
    seen: dict[str, int] = {}
    found = []
    for key in keys:
        again = seen.get(key, 0)
        found.append(f"{key}#{again}" if again else key)
        seen[key] = again + 1
    return found


def sentences_of(classes: Sequence[str], templates: Sequence[str]) -> list[str]:
    """All filled templates, class by class."""
    return [template.replace("{}", name) for name in classes for template in templates]


def class_vectors(model: EvaluatedModel, classes: Sequence[str], templates: Sequence[str], batch: int = 64) -> Tensor:
    """Unit vectors ``[C, D]``: the unit mean of each class's filled templates' unit vectors."""
    text = encode_texts(model, sentences_of(classes, templates), frozenset(), batch=4 * batch)
    return ensemble(text.pooled_ND, len(classes), len(templates))


def ensemble(pooled_ND: Tensor, classes: int, templates: int) -> Tensor:
    """Unit vectors ``[C, D]`` from those of C times T sentences, class by class."""
    return unit(unit(pooled_ND).unflatten(0, (classes, templates)).mean(1))


def class_scores(model: EvaluatedModel, image: ImageFeatures, classes: Sequence[str], templates: Sequence[str], batch: int = 64) -> Tensor:
    """Scores ``[B, C]`` of every image with every class."""
    needs = None if getattr(model, "score", None) is not None else frozenset()
    text = encode_texts(model, sentences_of(classes, templates), needs, batch=4 * batch)
    return scores_with(model, image, text, len(classes), len(templates))


def scores_with(model: EvaluatedModel, image: ImageFeatures, text: TextFeatures, classes: int, templates: int) -> Tensor:
    """Scores ``[B, C]`` from the features of images and of all sentences; a joint scorer averages its scores over the templates, unless vectors
    alone are what it reads of texts (``scores_vectors``)."""
    if getattr(model, "scores_vectors", False):
        return similarity(image, TextFeatures(ensemble(text.pooled_ND, classes, templates)), model)
    if getattr(model, "score", None) is not None:
        return similarity(image, text, model).unflatten(1, (classes, templates)).mean(2)
    return index_vectors(replace(image, patches_BPD=None)) @ ensemble(text.pooled_ND, classes, templates).T


def class_values(scores_BC: Tensor, true_B: Tensor) -> dict[str, np.ndarray]:
    """``acc1``, ``acc5`` strict and ``_expected``, and ``tie_rate``, each ``[B]``, from scores ``[B, C]`` and true places ``[B]``."""
    if not bool(torch.isfinite(scores_BC).all()):
        raise UserError("The model gave scores that are not finite, so it cannot be scored; use an earlier checkpoint.")
    own_B1 = scores_BC.gather(1, true_B[:, None])
    tolerance = TIE * max(1.0, float(scores_BC.abs().max()))
    better = (scores_BC > own_B1 + tolerance).sum(1).numpy()
    tied = (scores_BC >= own_B1 - tolerance).sum(1).numpy() - better - 1
    values = {}
    for k in (1, 5):
        values[f"acc{k}"] = (better + tied < k).astype(np.float64)
        values[f"acc{k}_expected"] = first_true_within(k, better, tied, np.ones_like(tied))
    return values | {"tie_rate": (tied > 0).astype(np.float64)}


def per_class_figure(
    hit_B: np.ndarray,
    shuffled_B: np.ndarray | None,
    true_B: np.ndarray,
    keys: Sequence[str],
    classes: int,
    seed: int,
    k: int = 1,
    name: str = "mean_per_class_recall",
) -> Figure:
    """Mean over the classes that have images of their share of hits; a resample may lose a class, which is then left out of its
    mean."""
    order = np.argsort(true_B, kind="stable")
    starts = np.unique(true_B[order], return_index=True)[1]

    def mean(weights: np.ndarray, hits: np.ndarray = hit_B) -> np.ndarray:
        right = np.add.reduceat((weights * hits)[:, order], starts, axis=1)
        count = np.add.reduceat(weights[:, order], starts, axis=1)
        return np.nanmean(np.where(count > 0, right / np.maximum(count, 1e-9), np.nan), axis=1)

    once = np.ones((1, len(hit_B)))
    low, high = bootstrap_statistic(mean, list(keys), seed=seed)
    note = "ties broken at random" if ((hit_B > 0) & (hit_B < 1)).any() else ""
    value, control = float(mean(once)[0]), None if shuffled_B is None else float(mean(once, shuffled_B)[0])
    chance = min(k / classes, 1.0)
    return Figure(name, value, min(low, value), max(high, value), len(hit_B), chance, control, note=note)
