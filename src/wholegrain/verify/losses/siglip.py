"""``siglip`` once more: the sigmoid loss, cell by cell."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from wholegrain.losses.siglip import SiglipLoss
from wholegrain.verify.closed_form import ClosedForm, of_sigmoid
from wholegrain.verify.reference import Samples, sigmoid_cells

VARIANTS = {
    "siglip": SiglipLoss(),
    "siglip-negative": SiglipLoss(duplicates="negative"),
    "siglip-positive": SiglipLoss(duplicates="positive"),
    "siglip-per-text": SiglipLoss(per="text"),
}


def reference(loss: SiglipLoss, x: Samples) -> Tensor:
    """The formula of ``losses/siglip.py`` in float64, sample by sample."""
    def logit(i: int, n: int) -> Tensor:
        return x.scale * x.cosine(i, n) + x.bias

    by_images = sigmoid_cells(x, x.true, logit, loss.duplicates)
    return by_images * len(x.images) / len(x.true) if loss.per == "text" else by_images


def closed_forms(loss: SiglipLoss) -> Iterator[ClosedForm]:
    """Problems whose answer is known on paper."""
    return of_sigmoid(0)
