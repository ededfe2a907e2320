"""``sparc`` once more: what each token groups, token by token."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from wholegrain.losses.sparc import SparcLoss
from wholegrain.verify.closed_form import IMAGES, TOKENS, ClosedForm, all_alike
from wholegrain.verify.reference import (
    Samples,
    cos,
    cross_entropy,
    diagonal_entropy,
    dot,
    mean,
    minmax,
    softmax,
    total,
    unit,
    weighted,
)

VARIANTS = {
    "sparc": SparcLoss(),
    "sparc-token-sigma": SparcLoss(sigma=0.5, reduction="token", similarity="cosine"),
    "sparc-softmax": SparcLoss(weights="softmax"),
    "sparc-softmax-cosine": SparcLoss(weights="softmax", similarity="cosine"),
    "sparc-detached": SparcLoss(detach_weights=True, sigma=0.0),
    "sparc-images": SparcLoss(rivals="images"),
    "sparc-both": SparcLoss(rivals="both", similarity="cosine", sigma=0.3, reduction="token"),
    "sparc-images-softmax": SparcLoss(rivals="images", weights="softmax", temperature=1.0),
    "sparc-bare-softmax": SparcLoss(weights="softmax", temperature=1.0),
    "sparc-cosine-softmax": SparcLoss(weights="softmax", similarity="cosine", temperature=0.2),
    "sparc-images-detached": SparcLoss(rivals="images", detach_weights=True, sigma=0.0),
}
_DETACHED = "the alignment weights are constants in the backward pass"


def known_breaks(loss: SparcLoss) -> dict[str, str]:
    if not loss.detach_weights:
        return {}
    scale_in_weights = loss.weights == "softmax" and loss.similarity == "cosine"
    return {"gradients": _DETACHED} | ({"scale": _DETACHED} if scale_in_weights else {})


def reference(loss: SparcLoss, x: Samples) -> Tensor:
    """The formula of ``losses/sparc.py`` in float64, sample by sample."""
    each = [_of_caption(loss, x, n) for n in x.true]
    if loss.reduction == "token":
        return total(each) / sum(len(x.words[n]) for n in x.true)
    return mean([value / len(x.words[n]) for value, n in zip(each, x.true, strict=True)])


def _of_caption(loss: SparcLoss, x: Samples, n: int) -> Tensor:
    """The sum over the tokens of a caption."""
    i, words, scale = x.owner[n], x.words[n], x.scale
    grouped = [_grouped(loss, t, x, i) for t in words]
    each: list[Tensor] = []
    if loss.rivals in ("tokens", "both"):
        each.append(diagonal_entropy([[scale * cos(c, t) for t in words] for c in grouped]) * len(words))
    if loss.rivals in ("images", "both"):
        others = [j for j in x.images if not x.left_out(j, n, "ignore")]
        rivals = [[scale * cos(_grouped(loss, t, x, j), t) for j in others] for t in words]
        pairs = zip(words, grouped, rivals, strict=True)
        each.append(total(cross_entropy(scale * cos(c, t), row) for t, c, row in pairs))
    return mean(each)


def _grouped(loss: SparcLoss, t: Tensor, x: Samples, i: int) -> Tensor:
    """What a token takes of the patches of image i."""
    patches = x.patches[i]
    alike = (unit(t), x.unit_patches[i]) if loss.similarity == "cosine" else (t, patches)
    row = [dot(alike[0], v) for v in alike[1]]
    if loss.weights == "minmax":
        weight = minmax(row, 1 / len(patches) if loss.sigma is None else loss.sigma)
    else:
        factor = x.scale if loss.similarity == "cosine" else len(t) ** -0.5
        weight = softmax([a * (factor if loss.temperature is None else 1 / loss.temperature) for a in row])
    return weighted([w.detach() if loss.detach_weights else w for w in weight], patches)


def closed_forms(loss: SparcLoss) -> Iterator[ClosedForm]:
    """Problems whose answer is known on paper."""
    kinds = {"tokens": [TOKENS], "images": [IMAGES], "both": [TOKENS, IMAGES]}[loss.rivals]
    description = f"4 images, captions of 5 tokens, all alike: {' and '.join(f'ln {n}' for n in kinds)}, their mean"
    yield ClosedForm(description, all_alike(), sum(map(math.log, kinds)) / len(kinds))
    if loss.rivals == "tokens":
        yield ClosedForm("captions of one token: 0", all_alike(0, tokens=1), 0.0)
