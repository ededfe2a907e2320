"""The score of an image and a text: the one place in the evaluation where it is made.

A single-vector model scores by the cosine. A model with H branches scores by the mean of its branches' cosines, as Holistic
CLIP's released code does at test time (arXiv 2412.00440); since a cosine is linear in the unit vector, that is the dot product
with the mean of the unit branch vectors, *not* normalised again. The norm matters for ranking images: one whose branches disagree
ranks lower. A model that scores pairs jointly (heads that compare more than two vectors: FILIP, PACL, FLAIR, Llip,
fusion, whole and grain) exposes ``score(images, texts) -> [B, N]``, which is used instead.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from wholegrain.errors import UserError
from wholegrain.evaluation.statistics.ties import TIE
from wholegrain.features import ImageFeatures, TextFeatures


def index_vectors(image: ImageFeatures) -> Tensor:
    """The vector ``[B, D]`` to keep per image: its dot product with a unit text vector is the score.

    Example:
        >>> index_vectors(ImageFeatures(torch.tensor([[3.0, 4.0]]))).tolist()
        [[0.6000000238418579, 0.800000011920929]]
    """
    if image.branches_BHD is not None:
        return unit(image.branches_BHD).mean(1)
    return unit(image.pooled_BD)


def unit(x: Tensor) -> Tensor:
    """Unit vectors along the last axis in float32; a zero vector stays zero."""
    return torch.nn.functional.normalize(x.float(), dim=-1)


def logit_scale(model: object) -> float:
    """What a model multiplies its scores by before a softmax: its own ``scale``, the inverse temperature that it learned, or 100, CLIP's, for one
    without."""
    found = getattr(model, "scale", None)
    found = found.item() if isinstance(found, Tensor) else found
    return float(found) if isinstance(found, float | int) and not isinstance(found, bool) else 100.0


def similarity(image: ImageFeatures, text: TextFeatures, model: object = None) -> Tensor:
    """Scores ``[B, N]`` of every image with every text; ``model.score`` makes them if ``model`` has such a method."""
    joint = getattr(model, "score", None)
    if joint is not None:
        with torch.no_grad():
            return joint(image, text).to(torch.float32, copy=True)
    return index_vectors(image) @ unit(text.pooled_ND).T


class Scorer:
    """Scores of a fixed set of images with a fixed set of texts, by position, in blocks or pair by pair.

    Args:
        image, text: features of B images and N texts.
        model: only looked at for a ``score`` method; see :func:`similarity`.

    Raises:
        UserError: when a feature is not finite; comparisons with NaN are all false, so such a model would seem never to be
            beaten.
    """

    def __init__(self, image: ImageFeatures, text: TextFeatures, model: object = None) -> None:
        self.image, self.text, self.model = image, text, model
        self.joint = getattr(model, "score", None) is not None
        self.index_BD, self.query_ND = index_vectors(image), unit(text.pooled_ND)
        for what, vectors in (("image", self.index_BD), ("text", self.query_ND)):
            broken = int((~torch.isfinite(vectors)).any(1).sum())
            if broken:
                raise UserError(
                    f"The model gave {what} features that are not finite ({broken} of {len(vectors)}); use an earlier checkpoint."
                )

    @property
    def shape(self) -> tuple[int, int]:
        """B, N."""
        return len(self.index_BD), len(self.query_ND)

    @property
    def branches(self) -> int:
        """H, or 1 for a single-vector model."""
        return 1 if self.image.branches_BHD is None else self.image.branches_BHD.shape[1]

    def rows(self, start: int, stop: int) -> Tensor:
        """Scores ``[stop - start, N]`` of images ``start`` to ``stop`` with all texts."""
        if self.joint:
            place = torch.arange(start, stop)
            return similarity(self.image.select(place), self.text, self.model)
        return self.index_BD[start:stop] @ self.query_ND.T

    def blocks(self, cells: int = 1 << 22) -> Iterator[tuple[int, Tensor]]:
        """``(start, scores)`` over all images, at most about ``cells`` scores at a time."""
        images, texts = self.shape
        step = max(1, cells // max(texts, 1))
        for start in range(0, images, step):
            yield start, self.rows(start, min(start + step, images))

    def pairs(self, image_M: Tensor, text_M: Tensor, step: int = 1 << 14) -> Tensor:
        """Scores ``[M]`` of image ``image_M[m]`` with text ``text_M[m]``."""
        if self.joint:
            return self._joint_pairs(image_M, text_M)
        parts = [
            (self.index_BD[i] * self.query_ND[t]).sum(1) for i, t in zip(image_M.split(step), text_M.split(step), strict=True)
        ]
        return torch.cat(parts) if parts else torch.zeros(0)

    def _joint_pairs(self, image_M: Tensor, text_M: Tensor) -> Tensor:
        out_M = torch.zeros(len(image_M))
        order = torch.argsort(image_M, stable=True)
        images, counts = torch.unique_consecutive(image_M[order], return_counts=True)
        for image, place in zip(images, order.split(counts.tolist()), strict=True):
            out_M[place] = similarity(self.image.select(image[None]), self.text.select(text_M[place]), self.model)[0]
        return out_M

    def permuted(self, order_B: Tensor) -> Scorer:
        """The shuffled-images control: image b's features replaced by those of image ``order_B[b]``
        (:func:`~wholegrain.evaluation.statistics.stand_ins.stand_ins`)."""
        return Scorer(self.image.select(order_B), self.text, self.model)

    def tolerance(self, scores: Tensor) -> float:
        """How far apart two scores may be and still count as equal: rounding error at the size of these scores."""
        return TIE * max(1.0, float(scores.abs().max())) if scores.numel() else TIE
