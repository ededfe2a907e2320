"""``negclip`` once more: CLIP's softmax with hard negatives among the candidates, over single pairs."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from wholegrain.losses.negclip import NegclipLoss
from wholegrain.verify.closed_form import FOILS, IMAGES, ClosedForm, at_right_angles, of_softmax
from wholegrain.verify.reference import Samples, symmetric_softmax

VARIANTS = {
    "negclip": NegclipLoss(),
    "negclip-own": NegclipLoss(own_only=True, label_smoothing=0.1),
    "negclip-own-negative": NegclipLoss(own_only=True, duplicates="negative"),
}


def reference(loss: NegclipLoss, x: Samples) -> Tensor:
    """The formula of ``losses/negclip.py`` in float64, sample by sample."""
    def score(i: int, n: int) -> Tensor:
        return x.scale * x.cosine(i, n)

    texts, smoothing = x.true + x.foils, loss.label_smoothing
    return symmetric_softmax(x, texts, score, duplicates=loss.duplicates, smoothing=smoothing, own_only=loss.own_only)


def closed_forms(loss: NegclipLoss) -> Iterator[ClosedForm]:
    """Problems whose answer is known on paper."""
    yield from of_softmax(FOILS * (1 if loss.own_only else IMAGES))
    if loss.label_smoothing == 0:
        yield from at_right_angles()
