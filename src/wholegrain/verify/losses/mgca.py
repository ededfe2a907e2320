"""``mgca`` once more: words and patches that find each other within a pair."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from wholegrain.losses.mgca import MgcaLoss
from wholegrain.verify.closed_form import TOKENS, ClosedForm, all_alike
from wholegrain.verify.reference import Samples, cos, diagonal_entropy, dot, mean, softmax, unit, weighted

VARIANTS = {
    "mgca": MgcaLoss(temperature=0.3),
    "mgca-sparc": MgcaLoss(variant="sparc", control=True),
    "mgca-words": MgcaLoss(bidirectional=False, temperature=0.5),
}


def reference(loss: MgcaLoss, x: Samples) -> Tensor:
    """The formula of ``losses/mgca.py`` in float64, sample by sample."""
    fixed = 0.1 if loss.temperature is None else loss.temperature
    sharp = x.scale if loss.variant == "sparc" and loss.temperature is None else 1 / fixed

    def half(queries: list[Tensor], values: list[Tensor]) -> Tensor:
        found = [weighted(softmax([sharp * dot(q, v) for v in values]), values) for q in queries]
        return diagonal_entropy([[sharp * cos(q, other) for other in found] for q in queries])

    each: list[Tensor] = []
    for n in x.true:
        words, patches = [unit(t) for t in x.words[n]], [unit(v) for v in x.patches[x.owner[n]]]
        each.append(half(words, patches) + half(patches, words) if loss.bidirectional else half(words, patches))
    return mean(each)


def closed_forms(loss: MgcaLoss) -> Iterator[ClosedForm]:
    """Problems whose answer is known on paper."""
    value = math.log(TOKENS) + (math.log(4) if loss.bidirectional else 0.0)
    yield ClosedForm("5 tokens and 4 patches alike: ln 5, and ln 4 the other way", all_alike(), value)
