"""``own_negatives`` once more: a caption among its own hard negatives."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from wholegrain.losses.fsc_local import FscLocalLoss
from wholegrain.losses.own_negatives import OwnNegativesLoss
from wholegrain.verify.closed_form import FOILS, ClosedForm, all_alike
from wholegrain.verify.reference import Samples, mean, softmax, total

VARIANTS = {
    "own": OwnNegativesLoss(),
    "own-fsc": OwnNegativesLoss(focal=2.0, label_smoothing=0.02),
    "own-negative": OwnNegativesLoss(focal=0.5, label_smoothing=0.3, duplicates="negative"),
    "own-smooth": OwnNegativesLoss(label_smoothing=0.1),
}


def focal_entropy(target: Tensor, rivals: Sequence[Tensor], focal: float, smoothing: float) -> Tensor:
    """Cross entropy with smoothed labels, each class's part times (1 - its probability)^focal."""
    chance = softmax([target, *rivals])
    spread = smoothing / len(chance)
    label = [1 - smoothing + spread, *[spread] * len(rivals)]
    others = [total(p for j, p in enumerate(chance) if j != k) for k in range(len(chance))]  # 1 - p is 0 where p is nearly 1
    return -total(y * other**focal * p.log() for y, other, p in zip(label, others, chance, strict=True))


def reference(loss: OwnNegativesLoss, x: Samples) -> Tensor:
    """The formula of ``losses/own_negatives.py`` in float64, sample by sample."""
    def score(n: int) -> Tensor:
        return x.scale * x.cosine(x.owner[n], n)

    of_caption = {n: x.foils_of(n, loss.duplicates) for n in x.true}
    each = [
        focal_entropy(score(n), [score(k) for k in own], loss.focal, loss.label_smoothing)
        for n, own in of_caption.items()
        if own
    ]
    return mean(each, x.text.pooled_ND, x.scale)


def closed_forms(loss: OwnNegativesLoss | FscLocalLoss) -> Iterator[ClosedForm]:
    """Problems whose answer is known on paper."""
    value = (FOILS / (1 + FOILS)) ** loss.focal * math.log(1 + FOILS)  # smoothing spreads the label over equals
    yield ClosedForm(f"a caption and its 3 foils alike: ln 4 times 0.75^{loss.focal:g}", all_alike(), value)
    yield ClosedForm("no foils: 0", all_alike(0), 0.0)
