"""``filip`` once more: best words and best patches, pair by pair."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from wholegrain.losses.filip import FilipLoss
from wholegrain.verify.closed_form import FOILS, IMAGES, ClosedForm, at_right_angles, of_softmax
from wholegrain.verify.reference import Samples, cos, dot, mean, symmetric_softmax, unit

VARIANTS = {
    "filip": FilipLoss(),
    "filip-sparc": FilipLoss(variant="sparc", negatives="all"),
    "filip-quarter": FilipLoss(keep=0.25, duplicates="negative"),
}


def known_breaks(loss: FilipLoss) -> dict[str, str]:
    if _share(loss) == 1 or loss.duplicates == "negative":
        return {}
    return {"duplicates": "which patches an image keeps depends on its own texts, and so texts reach whatever the image is compared with"}


def _share(loss: FilipLoss) -> float:
    return loss.keep if loss.keep is not None else {"own": 1.0, "sparc": 0.8}[loss.variant]


def reference(loss: FilipLoss, x: Samples) -> Tensor:
    """The formula of ``losses/filip.py`` in float64, sample by sample."""
    patches, words = _kept(x, _share(loss))
    patches, words = ([[unit(v) for v in vectors] for vectors in side] for side in (patches, words))

    def best(vector: Tensor, partners: list[Tensor]) -> Tensor:
        return torch.stack([dot(vector, partner) for partner in partners]).max()

    def to_text(i: int, n: int) -> Tensor:
        return x.scale * mean([best(v, words[n]) for v in patches[i]])

    def to_image(i: int, n: int) -> Tensor:
        return x.scale * mean([best(t, patches[i]) for t in words[n]])

    return symmetric_softmax(x, x.candidates(loss.negatives), to_text, to_image, duplicates=loss.duplicates)


def _kept(x: Samples, share: float) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """The share of each image's patches and of each text's words that match best within their own pairs."""
    if share == 1:
        return x.patches, x.words

    def best(vectors: list[Tensor], partners: list[Tensor]) -> list[Tensor]:
        ranked = sorted(vectors, key=lambda v: -max((cos(v, w).item() for w in partners), default=0.0))
        return ranked[: math.ceil(share * len(vectors))]

    own = [[w for n in x.captions_of(i) for w in x.words[n]] for i in x.images]
    patches = [best(x.patches[i], own[i]) for i in x.images]
    return patches, [best(x.words[n], x.patches[x.owner[n]]) for n in x.texts]


def closed_forms(loss: FilipLoss) -> Iterator[ClosedForm]:
    """Problems whose answer is known on paper."""
    yield from of_softmax(FOILS * IMAGES if loss.negatives == "all" else 0)
    yield from at_right_angles()
