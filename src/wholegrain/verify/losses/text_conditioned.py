"""``text_conditioned`` once more: every image pooled by every text, pair by pair."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from wholegrain.losses.text_conditioned import TextConditionedLoss
from wholegrain.verify.closed_form import FOILS, IMAGES, ClosedForm, at_right_angles, of_sigmoid, of_softmax
from wholegrain.verify.reference import Samples, cos, dot, lse, minmax, sigmoid_cells, symmetric_softmax, unit, weighted

VARIANTS = {
    "conditioned": TextConditionedLoss(),
    "conditioned-own": TextConditionedLoss(negatives="own", pool_temperature=0.3),
    "conditioned-all-minmax": TextConditionedLoss(negatives="all", weights="minmax", duplicates="negative"),
    "conditioned-sigmoid": TextConditionedLoss(kind="sigmoid", negatives="own"),
}


def reference(loss: TextConditionedLoss, x: Samples) -> Tensor:
    """The formula of ``losses/text_conditioned.py`` in float64, sample by sample."""
    def score(i: int, n: int) -> Tensor:
        patches, text = x.patches[i], x.text.pooled_ND[n]
        along = unit(text)
        likeness = [dot(v, along) for v in x.unit_patches[i]]
        if loss.weights == "softmax":
            whole = lse([c / loss.pool_temperature for c in likeness])
            weight = [(c / loss.pool_temperature - whole).exp() for c in likeness]
        else:
            weight = minmax(likeness, 1 / len(patches))
        return x.scale * cos(weighted(weight, patches), text)

    texts, own_only = x.candidates(loss.negatives), loss.negatives == "own"
    if loss.kind == "sigmoid":
        return sigmoid_cells(x, texts, lambda i, n: score(i, n) + x.bias, loss.duplicates, own_only)
    return symmetric_softmax(x, texts, score, duplicates=loss.duplicates, own_only=own_only)


def closed_forms(loss: TextConditionedLoss) -> Iterator[ClosedForm]:
    """Problems whose answer is known on paper."""
    foils = {"none": 0, "own": FOILS, "all": FOILS * IMAGES}[loss.negatives]
    if loss.kind == "sigmoid":
        yield from of_sigmoid(foils)
    else:
        yield from of_softmax(foils)
        yield from at_right_angles()
