"""``clip`` once more: CLIP's symmetric softmax over single pairs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from wholegrain.losses.clip import ClipLoss
from wholegrain.verify.closed_form import ClosedForm, at_right_angles, of_softmax
from wholegrain.verify.reference import Samples, symmetric_softmax

VARIANTS = {
    "clip": ClipLoss(),
    "clip-negative-smooth": ClipLoss(duplicates="negative", label_smoothing=0.1),
    "clip-smooth": ClipLoss(label_smoothing=0.2),
    "clip-fixed": ClipLoss(temperature=0.07),
}


def reference(loss: ClipLoss, x: Samples) -> Tensor:
    """The formula of ``losses/clip.py`` in float64, sample by sample."""
    scale = x.scale if loss.temperature is None else torch.full_like(x.scale, 1 / loss.temperature)

    def score(i: int, n: int) -> Tensor:
        return scale * x.cosine(i, n)

    return symmetric_softmax(x, x.true, score, duplicates=loss.duplicates, smoothing=loss.label_smoothing)


def closed_forms(loss: ClipLoss) -> Iterator[ClosedForm]:
    """Problems whose answer is known on paper."""
    yield from of_softmax(0)
    if loss.label_smoothing == 0:
        yield from at_right_angles(None if loss.temperature is None else 1 / loss.temperature)
