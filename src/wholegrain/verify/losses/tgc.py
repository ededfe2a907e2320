"""``tgc`` once more: a caption, the teacher's copy of it, and its own negatives."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from wholegrain.losses.tgc import TgcLoss
from wholegrain.verify.closed_form import FOILS, ClosedForm, all_alike
from wholegrain.verify.reference import Samples, cos, cross_entropy, mean, required

VARIANTS = {"tgc": TgcLoss(), "tgc-scaled": TgcLoss(scale=0.0, duplicates="negative")}


def reference(loss: TgcLoss, x: Samples) -> Tensor:
    """The formula of ``losses/tgc.py`` in float64, sample by sample."""
    text, teacher, factor = x.text.pooled_ND, required(x.text.teacher).pooled_ND, loss.scale or x.scale
    each: list[Tensor] = []
    for n in x.true:
        own = x.foils_of(n, loss.duplicates)
        if own:
            each.append(cross_entropy(factor * cos(text[n], teacher[n]), [factor * cos(text[n], text[m]) for m in own]))
    return mean(each, text, x.scale)


def closed_forms(loss: TgcLoss) -> Iterator[ClosedForm]:
    """Problems whose answer is known on paper."""
    yield ClosedForm("a caption, the teacher's copy of it and its 3 foils alike: ln 4", all_alike(), math.log(1 + FOILS))
    yield ClosedForm("no foils: 0", all_alike(0), 0.0)
