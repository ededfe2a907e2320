"""``flair`` once more: images pooled by each text's attention, cell by cell."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from wholegrain.losses.flair import FlairLoss
from wholegrain.verify.closed_form import FOILS, ClosedForm, of_sigmoid
from wholegrain.verify.reference import Samples, cos, dot, required, softmax, softplus, total, weighted

VARIANTS = {
    "flair": FlairLoss(),
    "flair-all": FlairLoss(others="all", negatives="own"),
    "flair-negative": FlairLoss(duplicates="negative", negatives="own"),
}


def known_breaks(loss: FlairLoss) -> dict[str, str]:
    return {"text_order": "of an image's texts only the first in its list meets other images"} if loss.others == "first" else {}


def attended_cosine(x: Samples, i: int, n: int) -> Tensor:
    """The cosine of text n with image i pooled by it."""
    keys, values, query = (required(slots) for slots in (x.image.keys_BGSE, x.image.values_BGSE, x.text.query_NGE))
    heads = [weighted(softmax(dot(q, k) for k in keys[i, g]), values[i, g]) for g, q in enumerate(query[n])]
    mixed = x.image.learned["mix_DA"] @ torch.cat(heads) + x.image.learned["mix_D"]
    return cos(mixed, x.text.pooled_ND[n])


def reference(loss: FlairLoss, x: Samples) -> Tensor:
    """The formula of ``losses/flair.py`` in float64, sample by sample."""
    def logit(i: int, n: int) -> Tensor:
        return x.scale * attended_cosine(x, i, n) + x.bias

    cells: list[Tensor] = []
    for i in x.images:
        cells += [softplus(-logit(i, n)) for n in x.captions_of(i)]
        for j in x.images:
            others = x.captions_of(j) if j != i else []
            others = others[:1] if loss.others == "first" else others
            cells += [softplus(logit(i, n)) for n in others if not x.left_out(i, n, loss.duplicates)]
        if loss.negatives == "own":
            cells += [softplus(logit(i, k)) for n in x.captions_of(i) for k in x.foils_of(n, loss.duplicates)]
    images = len(x.images)
    return total(cells) / (images + len(x.true) / images - 1)


def closed_forms(loss: FlairLoss) -> Iterator[ClosedForm]:
    """Problems whose answer is known on paper."""
    return islice(of_sigmoid(FOILS if loss.negatives == "own" else 0), 1)
