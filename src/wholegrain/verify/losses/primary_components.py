"""``primary_components`` once more: the projector as a matrix sign, which needs no eigenvectors, and pairs one by one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.primary_components import PrimaryComponentsLoss
from wholegrain.verify.cases import KINDS, SCALE, Batch, lone_pair
from wholegrain.verify.closed_form import IMAGES, ClosedForm, all_alike, right_angles
from wholegrain.verify.reference import Samples, dot, symmetric_softmax, unit

VARIANTS = {
    "primary-components": PrimaryComponentsLoss(),
    "primary-components-2": PrimaryComponentsLoss(components=2),
    "primary-components-3-smooth": PrimaryComponentsLoss(components=3, label_smoothing=0.1, duplicates="negative"),
}
_ROUNDS = 60


def known_breaks(loss: PrimaryComponentsLoss) -> dict[str, str]:
    few = "every image has a part in the components, so it meets copies through them"
    return {"duplicates": few} if loss.components < IMAGES - 1 else {}


def reference(loss: PrimaryComponentsLoss, x: Samples) -> Tensor:
    """The formula of ``losses/primary_components.py`` in float64, sample by sample."""
    text, image = [unit(t) for t in x.text.pooled_ND], [unit(v) for v in x.image.pooled_BD]
    mean = torch.stack(image).sum(0) / len(image)
    if loss.components < min(len(image) - 1, len(mean)):
        matrix = torch.stack([torch.outer(v - mean, v - mean) for v in image]).sum(0)
        projector = _above(matrix, loss.components)
        image = [mean + projector @ (v - mean) for v in image]

    def score(i: int, n: int) -> Tensor:
        return x.scale * dot(image[i], text[n])

    return symmetric_softmax(x, x.true, score, duplicates=loss.duplicates, smoothing=loss.label_smoothing)


def _above(matrix: Tensor, kept: int) -> Tensor:
    """The projector on the ``kept`` leading eigenvectors: (1 + sign(A - l)) / 2, l between two eigenvalues, by Newton's iteration."""
    value = torch.linalg.eigvalsh(matrix.detach())
    one = torch.eye(len(value), dtype=matrix.dtype)
    sign = matrix - one * (value[-kept] + value[-kept - 1]) / 2
    for _ in range(_ROUNDS):
        sign = (sign + torch.linalg.inv(sign)) / 2
    return (one + sign) / 2


def _cross() -> Batch:
    """Images at (a, 0, b), (-a, 0, b), (0, c, d), (0, -c, d), a > c, with their own vectors as captions: the first direction is a's."""
    a, b, c, d = 0.8, 0.6, 0.6, 0.8
    vectors = torch.tensor([[a, 0, b], [-a, 0, b], [0, c, d], [0, -c, d]], dtype=torch.float64)
    pairing = replace(Pairing.one_to_one(IMAGES), kinds=KINDS)
    return Batch(ImageFeatures(vectors), TextFeatures(vectors), pairing)


def closed_forms(loss: PrimaryComponentsLoss) -> Iterator[ClosedForm]:
    """Problems whose answer is known on paper."""
    yield ClosedForm(f"4 images, 4 captions, all alike: ln {IMAGES}", all_alike(), math.log(IMAGES))
    yield ClosedForm("one image and its caption: 0", lone_pair(right_angles()), 0.0)
    if loss.components == 2:
        yield ClosedForm("two directions of (±0.8, 0, 0.6), (0, ±0.6, 0.8): the third is its mean, 0.7", _cross(), _of_cross())


def _of_cross() -> float:
    """Images become (±0.8, 0, 0.7) and (0, ±0.6, 0.7)."""
    image = [(0.8, 0, 0.7), (-0.8, 0, 0.7), (0, 0.6, 0.7), (0, -0.6, 0.7)]
    text = [(0.8, 0, 0.6), (-0.8, 0, 0.6), (0, 0.6, 0.8), (0, -0.6, 0.8)]
    score = [[SCALE * sum(a * b for a, b in zip(v, t, strict=True)) for t in text] for v in image]
    turned = list(zip(*score, strict=True))
    each = [math.log(sum(map(math.exp, row))) - row[n] for table in (score, turned) for n, row in enumerate(table)]
    return sum(each) / len(each)
