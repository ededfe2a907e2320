"""Linear probe: what could a linear classifier read from the frozen image features?

Multinomial logistic regression on the train split's labelled images by L-BFGS, full batch; the L2 weight is chosen on the
validation split (or, where there is none, on a fifth of the train images, drawn by seed), then the classifier is fitted again on
both. Features are standardised by the training images. Chance is the share of the class that is most frequent in training: what a
probe of constant features scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from wholegrain.errors import UserError
from wholegrain.evaluation.contract import EvaluatedData, EvaluatedModel
from wholegrain.evaluation.features.encode import Encoded, default_needs, encode_keys, encode_patches
from wholegrain.evaluation.result import NotSupportedError, TaskResult
from wholegrain.evaluation.scores.similarity import index_vectors, unit
from wholegrain.evaluation.statistics.rows import Rows, figures, table
from wholegrain.evaluation.statistics.stand_ins import stand_ins
from wholegrain.evaluation.tasks.zero_shot import labelled, per_class_figure, unique_names

L2 = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class ProbeOptions:
    """What is fitted on what.

    Attributes:
        features: ``pooled``: the vector that the model is scored by; ``patches``: the mean of its patch vectors.
        train, validation: splits to fit and to choose the L2 weight on.
        sweep: L2 weights to try, per image.
    """

    features: Literal["pooled", "patches"] = "pooled"
    train: str = "train"
    validation: str = "val"
    sweep: Sequence[float] = L2


@dataclass(frozen=True)
class LabelledFeatures:
    """Features of N images, ``[N, D]``, and their classes, int64 ``[N]``: places in a list of classes, -1 for one that is not in it."""

    x_ND: Tensor
    class_N: Tensor

    def select(self, index_N: Tensor) -> LabelledFeatures:
        """The images at ``index_N`` (int64 or bool)."""
        return LabelledFeatures(self.x_ND[index_N], self.class_N[index_N])

    def __add__(self, other: LabelledFeatures) -> LabelledFeatures:
        """These images, and others behind them."""
        return LabelledFeatures(torch.cat([self.x_ND, other.x_ND]), torch.cat([self.class_N, other.class_N]))

    def __len__(self) -> int:
        """N."""
        return len(self.class_N)


def linear_probe(
    model: EvaluatedModel,
    dataset: EvaluatedData,
    split: str = "test",
    options: ProbeOptions = ProbeOptions(),
    *,
    known: Encoded | None = None,
    seed: int = 0,
    batch: int = 64,
) -> TaskResult:
    """Top-1 accuracy ``acc1`` of a linear probe on a split.

    Raises:
        NotSupportedError: when the split or the train split has no labels of two classes.
    """
    train, validation = options.train, options.validation
    if split in (train, validation):
        raise NotSupportedError(
            f"A linear probe is fitted on {train!r} and {validation!r}, so not tested on {split!r}; choose another split."
        )
    parts = {
        name: labelled(dataset, name) if name in dataset.splits else ([], [])
        for name in dict.fromkeys((train, validation, split))
    }
    classes = sorted(set(parts[train][1]))
    if len(classes) < 2 or not parts[split][0]:
        raise NotSupportedError(
            f"A linear probe needs labels of two classes in {train!r} and labels in {split!r}; choose labelled data."
        )
    place = {name: c for c, name in enumerate(classes)}
    labelled_features = {}
    for name, (keys, labels) in parts.items():
        if keys:
            x_ND = _features(model, dataset, keys, options.features, known if name == split else None, batch)
            class_N = torch.tensor([place.get(label, -1) for label in labels])  # a class that training lacks is always wrong
            labelled_features[name] = LabelledFeatures(x_ND, class_N)
    return probe("linear_probe", labelled_features, classes, parts[split][0], split, options, seed=seed)


def probe(
    task: str,
    parts: Mapping[str, LabelledFeatures],
    classes: Sequence[str],
    keys: Sequence[str],
    split: str = "test",
    options: ProbeOptions = ProbeOptions(),
    *,
    seed: int = 0,
) -> TaskResult:
    """:func:`linear_probe` on features that are there.

    Args:
        parts: split -> its images; a class of -1 is none of training.
        keys: of the images of ``split``, the part that is tested.
    """
    fit, choose = _fit_and_choose(parts, options, seed)
    l2 = choose_l2(fit, choose, len(classes), options.sweep)
    both = fit + choose
    scores = fit_logistic(both.x_ND, both.class_N, len(classes), l2)(parts[split].x_ND)
    other = stand_ins(keys, seed)
    predicted, true = scores.argmax(1), parts[split].class_N
    majority = int(torch.bincount(both.class_N, minlength=len(classes)).argmax())
    hits = (predicted == true).double().numpy()
    control = None if other is None else (predicted[torch.from_numpy(other)] == true).double().numpy()
    shuffled = {} if control is None else {"acc1": control}
    chance = {"acc1": float((true == majority).double().mean())}
    extra = {
        "label": [classes[c] if c >= 0 else None for c in true.tolist()],
        "predicted": [classes[c] for c in predicted.tolist()],
    }
    rows = Rows(unique_names(keys), [""] * len(keys), keys, {"acc1": hits}, chance, shuffled, extra=extra)
    per_class = per_class_figure(hits, control, true.numpy(), keys, len(classes), seed)
    what = "pooled" if options.features == "pooled" else "mean patch"
    protocol = (
        f"Logistic regression on {what} features of {len(both):,} images of {options.train!r}, {len(classes):,} classes, L2 {l2:g} chosen on "
        f"{len(choose):,} held-out images, tested on {len(keys):,} images of {split!r}."
    )
    return TaskResult(task, protocol, (*figures(rows, seed=seed), per_class), table(rows))


def _features(model: EvaluatedModel, dataset: EvaluatedData, keys: Sequence[str], what: str, known: Encoded | None, batch: int) -> Tensor:
    if what == "pooled":
        found = index_vectors(encode_keys(model, dataset, keys, default_needs(model), batch=batch, known=known))
    else:
        parts = (part.patches_BPD for part in encode_patches(model, dataset, keys, batch=batch))
        found = torch.cat([unit(patches_BPD).mean(1) for patches_BPD in parts if patches_BPD is not None])
    if not bool(torch.isfinite(found).all()):
        raise UserError("The model gave image features that are not finite, so they cannot be probed; use an earlier checkpoint.")
    return found


def _fit_and_choose(
    parts: Mapping[str, LabelledFeatures], options: ProbeOptions, seed: int
) -> tuple[LabelledFeatures, LabelledFeatures]:
    train = parts[options.train]
    if options.validation in parts and options.validation != options.train:
        held_out = parts[options.validation]
        return train, held_out.select(held_out.class_N >= 0)
    order = torch.from_numpy(np.random.default_rng([seed, 8]).permutation(len(train)))
    held = max(1, len(order) // 5)
    return train.select(order[held:]), train.select(order[:held])


def choose_l2(fit: LabelledFeatures, held_out: LabelledFeatures, classes: int, sweep: Sequence[float] = L2) -> float:
    """The L2 weight with the best accuracy on the held-out images; the greatest one of those that are equally good."""

    def accuracy(l2: float) -> float:
        predicted_N = fit_logistic(fit.x_ND, fit.class_N, classes, l2)(held_out.x_ND).argmax(1)
        return float((predicted_N == held_out.class_N).double().mean())

    return max(sorted(sweep, reverse=True), key=accuracy)


def fit_logistic(x_ND: Tensor, class_N: Tensor, classes: int, l2: float, steps: int = 200) -> Callable[[Tensor], Tensor]:
    """Minimises mean cross-entropy + l2 / 2 * |W|^2 (the bias is free) by L-BFGS.

    Returns:
        A function: features ``[N, D]`` -> scores ``[N, C]``.
    """
    mean_D, std_D = x_ND.mean(0), x_ND.std(0, correction=0).clamp(min=1e-6)
    x_ND = (x_ND - mean_D) / std_D
    weight_DC = torch.zeros(x_ND.shape[1], classes, requires_grad=True)
    bias_C = torch.zeros(classes, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight_DC, bias_C], max_iter=steps, tolerance_grad=1e-6, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        loss = torch.nn.functional.cross_entropy(x_ND @ weight_DC + bias_C, class_N) + 0.5 * l2 * weight_DC.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(closure)
    weight_DC, bias_C = weight_DC.detach(), bias_C.detach()
    return lambda x: (x - mean_D) / std_D @ weight_DC + bias_C
