"""``c2lip`` once more: mention by mention, image by image."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from wholegrain.losses.c2lip import C2lipLoss
from wholegrain.verify.cases import BIAS, PHRASES, SCALE
from wholegrain.verify.closed_form import IMAGES, ClosedForm, all_alike
from wholegrain.verify.reference import Samples, cos, mean, required, softmax, softplus, total, unit, weighted

VARIANTS = {
    "c2lip": C2lipLoss(),
    "c2lip-attention": C2lipLoss(image="attention"),
    "c2lip-attention-sharp-negative": C2lipLoss(image="attention", temperature=0.2, duplicates="negative"),
    "c2lip-negative": C2lipLoss(duplicates="negative"),
}


def reference(loss: C2lipLoss, x: Samples) -> Tensor:
    """The formula of ``losses/c2lip.py`` in float64, sample by sample."""
    vectors, weight = required(x.text.phrases_NKD), required(x.text.phrase_weight_NK).tolist()
    names = None if x.text.phrase_id_NK is None else x.text.phrase_id_NK.tolist()
    phrase: dict[object, Tensor] = {}
    said: dict[int, dict[object, None]] = {n: {} for n in x.true}
    for n in x.true:
        for k, share in enumerate(weight[n]):
            if share > 0:
                name = (n, k) if names is None else names[n][k]
                phrase.setdefault(name, vectors[n][k])
                said[n][name] = None

    def logit(i: int, name: object) -> Tensor:
        p = unit(phrase[name])
        if loss.image == "pooled":
            return x.scale * cos(x.image.pooled_BD[i], p) + x.bias
        patches = x.unit_patches[i]
        share = softmax([cos(v, p) / loss.temperature for v in patches])
        return x.scale * cos(weighted(share, patches), p) + x.bias

    def says(i: int, name: object, duplicates: str) -> bool:
        return any(name in said[n] and x.left_out(i, n, duplicates) for n in x.true)

    each: list[Tensor] = []
    for i in x.images:
        for name in dict.fromkeys(name for n in x.captions_of(i) for name in said[n]):
            others = [j for j in x.images if j != i and not (loss.duplicates == "ignore" and says(j, name, "ignore"))]
            each.append(total([softplus(-logit(i, name)), *(softplus(logit(j, name)) for j in others)]))
    return mean(each, x.image.pooled_BD, x.text.pooled_ND, x.scale, x.bias)


def closed_forms(loss: C2lipLoss) -> Iterator[ClosedForm]:
    """Problems whose answer is known on paper."""
    yes, no = math.log1p(math.exp(-(SCALE + BIAS))), math.log1p(math.exp(SCALE + BIAS))
    said = f"4 images whose captions say {PHRASES} phrases each, all alike: 1 yes and 3 no a mention"
    yield ClosedForm(said, all_alike(), yes + (IMAGES - 1) * no)
