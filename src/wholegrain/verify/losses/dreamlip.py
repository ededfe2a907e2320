"""``dreamlip`` once more: what each text gathers from its image, text by text."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from wholegrain.losses.dreamlip import DreamlipLoss
from wholegrain.verify.closed_form import IMAGES, ClosedForm, all_alike
from wholegrain.verify.reference import Samples, cos, cross_entropy, mean, minmax, softmax, unit, weighted

VARIANTS = {
    "dreamlip": DreamlipLoss(),
    "dreamlip-image": DreamlipLoss(rivals="image", sigma=None),
    "dreamlip-softmax": DreamlipLoss(weights="softmax"),
    "dreamlip-released": DreamlipLoss(patches_of="released"),
}
_SHIFTED = "texts gather patches by their place in the stacked batch, as released: mostly another image's"


def known_breaks(loss: DreamlipLoss) -> dict[str, str]:
    copies = "the texts of an image's copy are rivals, as the image's own other texts are in the released code"
    found = {"duplicates": copies} if loss.rivals == "batch" else {}
    return found | ({"image_order": _SHIFTED, "text_order": _SHIFTED} if loss.patches_of == "released" else {})


def reference(loss: DreamlipLoss, x: Samples) -> Tensor:
    """The formula of ``losses/dreamlip.py`` in float64, sample by sample."""
    text, scale, grouped = x.text.pooled_ND, x.scale, dict[int, Tensor]()
    for n, i in _sources(loss, x).items():
        patches = [unit(v) for v in x.patches[i]]
        row = [cos(text[n], v) for v in patches]
        sigma = 1 / len(patches) if loss.sigma is None else loss.sigma
        weight = minmax(row, sigma) if loss.weights == "minmax" else softmax([scale * a for a in row])
        grouped[n] = weighted(weight, patches)
    each: list[Tensor] = []
    for n in x.true:
        rivals = [m for m in x.true if x.text_id[m] != x.text_id[n]]
        if loss.rivals == "image":
            rivals = [m for m in rivals if x.owner[m] == x.owner[n]]
        target = scale * cos(grouped[n], text[n])
        each.append(cross_entropy(target, [scale * cos(grouped[n], text[m]) for m in rivals]))
        each.append(cross_entropy(target, [scale * cos(grouped[m], text[n]) for m in rivals]))
    return mean(each)


def _sources(loss: DreamlipLoss, x: Samples) -> dict[int, int]:
    """The image from which each true text gathers."""
    if loss.patches_of == "own":
        return {n: x.owner[n] for n in x.true}
    place = {n: sum(m < n for m in x.captions_of(x.owner[n])) for n in x.true}
    stacked = sorted(x.true, key=lambda n: (place[n], x.owner[n]))
    return dict(zip(stacked, sorted(x.owner[n] for n in x.true), strict=True))


def closed_forms(loss: DreamlipLoss) -> Iterator[ClosedForm]:
    """Problems whose answer is known on paper."""
    one, two = (IMAGES, 2 * IMAGES) if loss.rivals == "batch" else (1, 2)
    yield ClosedForm(f"4 images, 4 captions, all alike: ln {one}", all_alike(), math.log(one))
    yield ClosedForm(f"4 images of two captions each, all alike: ln {two}", all_alike(0, captions=2), math.log(two))
