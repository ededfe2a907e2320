"""``tripletclip`` once more: either side's images, over single pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from wholegrain.losses.tripletclip import TripletclipLoss
from wholegrain.verify.cases import SCALE, lone_pair
from wholegrain.verify.closed_form import IMAGES, ClosedForm, all_alike, right_angles
from wholegrain.verify.reference import Samples, cross_entropy, mean, total

VARIANTS = {
    "tripletclip": TripletclipLoss(),
    "tripletclip-all": TripletclipLoss(rivals="all"),
    "tripletclip-negative": TripletclipLoss(duplicates="negative"),
}


def reference(loss: TripletclipLoss, x: Samples) -> Tensor:
    """The formula of ``losses/tripletclip.py`` in float64, sample by sample."""

    def score(i: int, n: int) -> Tensor:
        return x.scale * x.cosine(i, n)

    sides: list[Tensor] = []
    for side in (0, 1):
        each: list[Tensor] = []
        for n in x.true:
            i = x.owner[n]
            if x.side[i] == side:
                texts = [m for m in x.true if not x.left_out(i, m, loss.duplicates)]
                images = [j for j in x.images if loss.rivals == "all" or x.side[j] == side]
                images = [j for j in images if not x.left_out(j, n, loss.duplicates)]
                each.append(cross_entropy(score(i, n), [score(i, m) for m in texts]))
                each.append(cross_entropy(score(i, n), [score(j, n) for j in images]))
        sides.append(mean(each, x.text.pooled_ND, x.image.pooled_BD, x.scale))
    return total(sides)


def closed_forms(loss: TripletclipLoss) -> Iterator[ClosedForm]:
    """Problems whose answer is known on paper; sides are half of the images each."""
    images = IMAGES if loss.rivals == "all" else IMAGES // 2
    yield ClosedForm(f"4 images, 4 captions, all alike: ln {IMAGES} + ln {images}", all_alike(), math.log(IMAGES) + math.log(images))
    yield ClosedForm("one image and its caption, no twin: 0", lone_pair(right_angles()), 0.0)
    apart = math.log1p((IMAGES - 1) * math.exp(-SCALE)) + math.log1p((images - 1) * math.exp(-SCALE))
    yield ClosedForm(f"at right angles: ln(1 + 3 e^-s) + ln(1 + {images - 1} e^-s)", right_angles(), apart)
