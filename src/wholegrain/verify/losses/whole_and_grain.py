"""``whole_and_grain`` once more: the whole, and every phrase's own pooling of every image, pair by pair."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from wholegrain.losses.whole_and_grain import WholeAndGrainLoss
from wholegrain.verify.cases import SCALE, Batch
from wholegrain.verify.closed_form import FOILS, IMAGES, ClosedForm, of_softmax, right_angles
from wholegrain.verify.reference import Samples, cos, dot, lse, required, symmetric_softmax, total, unit, weighted

VARIANTS = {
    "whole_and_grain": WholeAndGrainLoss(),
    "whole_and_grain-none": WholeAndGrainLoss(negatives="none"),
    "whole_and_grain-negative": WholeAndGrainLoss(duplicates="negative"),
}


def reference(loss: WholeAndGrainLoss, x: Samples) -> Tensor:
    """The formula of ``losses/whole_and_grain.py`` in float64, sample by sample."""
    weight = x.image.learned["grain_log_weight_1"][0].exp().clamp(0.01, 100.0)
    temperature = x.image.learned["grain_log_temperature_1"][0].exp().clamp(0.01, 10.0)
    vectors, shares = required(x.text.phrases_NKD), required(x.text.phrase_weight_NK).tolist()

    def seen(i: int, phrase: Tensor) -> Tensor:
        along = unit(phrase)
        likeness = [dot(v, along) / temperature for v in x.unit_patches[i]]
        whole = lse(likeness)
        return cos(weighted([(c - whole).exp() for c in likeness], x.patches[i]), phrase)

    def score(i: int, n: int) -> Tensor:
        grains = [share * seen(i, phrase) for phrase, share in zip(vectors[n], shares[n], strict=True) if share > 0]
        return x.scale * (x.cosine(i, n) + weight * total(grains) if grains else x.cosine(i, n))

    return symmetric_softmax(x, x.candidates(loss.negatives), score, duplicates=loss.duplicates)


def closed_forms(loss: WholeAndGrainLoss) -> Iterator[ClosedForm]:
    """Problems whose answer is known on paper."""
    for form in of_softmax(FOILS * IMAGES if loss.negatives == "all" else 0):
        yield replace(form, batch=_with_grain(form.batch))
    for weight in (0.5, 2.0):
        description = f"4 images, captions and phrases at right angles, weight {weight:g}: ln(1 + 3 e^-(1 + weight) scale)"
        value = math.log1p((IMAGES - 1) * math.exp(-(1 + weight) * SCALE))
        yield ClosedForm(description, _with_grain(right_angles(), weight), value)
    description = "the same, and no caption has a phrase: ln(1 + 3 e^-scale), whatever the weight"
    yield ClosedForm(description, _with_grain(right_angles(), 2.0, phrases=0), math.log1p((IMAGES - 1) * math.exp(-SCALE)))


def _with_grain(batch: Batch, weight: float = 1.0, phrases: int = 2) -> Batch:
    """With the weight, and in every caption as many phrases, which are its own vector."""
    texts, like = len(batch.text.pooled_ND), batch.text.pooled_ND
    given = torch.full((texts, phrases), 1 / max(phrases, 1)).to(like)
    learned = {"grain_log_weight_1": like.new_full((1,), math.log(weight)), "grain_log_temperature_1": like.new_zeros(1)}
    text = replace(batch.text, phrases_NKD=like[:, None].repeat(1, phrases, 1), phrase_weight_NK=given)
    return replace(batch, image=replace(batch.image, learned={**batch.image.learned, **learned}), text=text)
