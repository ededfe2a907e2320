"""``multi_positive`` once more: an image with all its captions at once."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from wholegrain.losses.multi_positive import MultiPositiveLoss
from wholegrain.verify.closed_form import IMAGES, ClosedForm, all_alike, at_right_angles
from wholegrain.verify.reference import Samples, cross_entropy, lse, mean

VARIANTS = {
    "multi-positive": MultiPositiveLoss(),
    "multi-positive-sum": MultiPositiveLoss(positives="sum"),
    "multi-positive-negative": MultiPositiveLoss(duplicates="negative"),
}


def reference(loss: MultiPositiveLoss, x: Samples) -> Tensor:
    """The formula of ``losses/multi_positive.py`` in float64, sample by sample."""
    def score(i: int, n: int) -> Tensor:
        return x.scale * x.cosine(i, n)

    rows: list[Tensor] = []
    for i in x.images:
        own = x.captions_of(i)
        everything = [score(i, m) for m in x.true if m in own or not x.left_out(i, m, loss.duplicates)]
        if own and loss.positives == "each":
            rows.append(mean([lse(everything) - score(i, n) for n in own]))
        elif own:
            rows.append(lse(everything) - lse([score(i, n) for n in own]))
    columns: list[Tensor] = []
    for n in x.true:
        others = [j for j in x.images if not x.left_out(j, n, loss.duplicates)]
        columns.append(cross_entropy(score(x.owner[n], n), [score(j, n) for j in others]))
    return (mean(rows) + mean(columns)) / 2


def closed_forms(loss: MultiPositiveLoss) -> Iterator[ClosedForm]:
    """Problems whose answer is known on paper."""
    both = 2 * IMAGES if loss.positives == "each" else IMAGES
    description = f"4 images of two captions each, all alike: (ln {both} + ln 4) / 2"
    yield ClosedForm(description, all_alike(0, captions=2), (math.log(both) + math.log(IMAGES)) / 2)
    yield from at_right_angles()
