"""``paraphrases`` once more: every two captions of an image among the captions of others."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from wholegrain.losses.paraphrases import ParaphrasesLoss
from wholegrain.verify.closed_form import IMAGES, ClosedForm, all_alike, right_angles
from wholegrain.verify.reference import Samples, cos, cross_entropy, mean

VARIANTS = {
    "paraphrases": ParaphrasesLoss(),
    "paraphrases-image": ParaphrasesLoss(finds="image"),
    "paraphrases-text": ParaphrasesLoss(finds="text", duplicates="negative"),
}


def reference(loss: ParaphrasesLoss, x: Samples) -> Tensor:
    """The formula of ``losses/paraphrases.py`` in float64, sample by sample."""
    image, text, scale = x.image.pooled_BD, x.text.pooled_ND, x.scale
    each: list[Tensor] = []
    for n in x.true:
        i = x.owner[n]
        rivals = [m for m in x.true if not x.left_out(i, m, loss.duplicates)]
        queries = {"image": [image[i]], "text": [text[n]], "both": [image[i], text[n]]}[loss.finds]
        for p in x.captions_of(i):
            if p == n or x.text_id[p] == x.text_id[n]:
                continue
            each.append(mean([cross_entropy(scale * cos(q, text[p]), [scale * cos(q, text[m]) for m in rivals]) for q in queries]))
    return mean(each, text, scale)


def closed_forms(loss: ParaphrasesLoss) -> Iterator[ClosedForm]:
    """Problems whose answer is known on paper."""
    rivals = 1 + 2 * (IMAGES - 1)
    yield ClosedForm(f"4 images of two captions each, all alike: ln {rivals}", all_alike(0, captions=2), math.log(rivals))
    yield ClosedForm("one caption an image: 0", right_angles(), 0.0)
