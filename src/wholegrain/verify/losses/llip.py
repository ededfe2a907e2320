"""``llip`` once more: images mixed by each text, pair by pair."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from torch import Tensor

from wholegrain.losses.llip import LlipLoss
from wholegrain.verify.closed_form import FOILS, IMAGES, ClosedForm, of_sigmoid, of_softmax
from wholegrain.verify.losses.flair import attended_cosine
from wholegrain.verify.reference import Samples, sigmoid_cells, symmetric_softmax

VARIANTS = {
    "llip": LlipLoss(),
    "llip-all": LlipLoss(negatives="all", duplicates="negative"),
    "llip-softmax": LlipLoss(kind="softmax", negatives="all"),
}


def reference(loss: LlipLoss, x: Samples) -> Tensor:
    """The formula of ``losses/llip.py`` in float64, sample by sample."""
    def score(i: int, n: int) -> Tensor:
        return x.scale * attended_cosine(x, i, n)

    texts = x.candidates(loss.negatives)
    if loss.kind == "softmax":
        return symmetric_softmax(x, texts, score, duplicates=loss.duplicates)
    return sigmoid_cells(x, texts, lambda i, n: score(i, n) + x.bias, loss.duplicates)


def closed_forms(loss: LlipLoss) -> Iterator[ClosedForm]:
    """Problems whose answer is known on paper."""
    foils = FOILS * IMAGES if loss.negatives == "all" else 0
    return islice(of_softmax(foils), 2) if loss.kind == "softmax" else islice(of_sigmoid(foils), 1)
