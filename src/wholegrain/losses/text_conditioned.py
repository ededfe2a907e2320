"""Text-conditioned pooling, contrasted across the batch: an image is summed up anew for every text that it is compared with.

For image i with patches v[p] and text n (of any image) with pooled vector t::

    a[p]       = softmax over patches of cos(v[p], t) / pool_temperature
    score(i,n) = cos( sum_p a[p] v[p], t )
    loss       = CLIP's symmetric softmax, or SigLIP's sigmoid loss, of scale * score over the global batch

Sources: PACL (Mukhoti et al., CVPR 2023, arXiv 2212.04994), as described and re-implemented by others; FLAIR (Xiao et al., CVPR
2025, arXiv 2412.03561) pools with learned attention queries in place of the softmax of cosines, and uses the sigmoid loss.

Why. Inside one pair (``losses/sparc.py``) a word can build its own group from any image. Here every text also pools *other
images'* patches, and the score of these must be low: only a patch that carries the text can win.

Differences. PACL trains a head on frozen towers and its softmax temperature is not known to us (0.1 here, in cosines); patches
are pooled un-normalised, as there. ``weights="minmax"`` takes SPARC's weights instead (no temperature). FLAIR adds negatives in
which the image's own patches are pooled by another image's text; here that is the image's row of the softmax.

``negatives``: hard negatives are not seen (``"none"``), are candidates of their own image (``"own"``), or of all (``"all"``).
An image's other texts are neither positive nor negative in the softmax, and positive in the sigmoid loss, as in ``clip`` and
``siglip``. Duplicates: ignored (``duplicates="ignore"``), or ``"negative"``.

Cost: B_local x N x P x (D + min(P, D)) multiply-adds forward, a factor P above CLIP; memory is bounded by making the scores in
blocks (recomputed in the backward pass). Sends each text's vector once; patches stay where they are.

Example:
    >>> import torch
    >>> from wholegrain.features import ImageFeatures, Pairing, TextFeatures
    >>> image = ImageFeatures(torch.ones(4, 8), patches_BPD=torch.ones(4, 9, 8), grid=(3, 3))
    >>> loss = TextConditionedLoss()(image, TextFeatures(torch.ones(4, 8)), Pairing.one_to_one(4), torch.tensor(10.0))
    >>> round(loss.value.exp().item(), 4)    # four candidates that cannot be told apart
    4.0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core import contrastive
from wholegrain.losses.core.contract import TINY, LossOutput, Ranges, State, at_least_float32, full_precision, unit
from wholegrain.losses.core.contrastive import Foils, RowScores, pair_sigmoid, pair_softmax
from wholegrain.losses.core.gather import gather_texts
from wholegrain.losses.core.known_true import Duplicates, own_foils
from wholegrain.losses.core.typed_torch import vector_norm
from wholegrain.losses.sparc import minmax_weights

Weights = Literal["softmax", "minmax"]


def text_conditioned_scores(
    patches_BPD: Tensor, pooled_ND: Tensor, temperature: Tensor | float = 0.1, weights: Weights = "softmax"
) -> Tensor:
    """The score of every image with every text: cosines, ``[B, N]``, in float32 at least.

    Args:
        patches_BPD, pooled_ND: un-normalised.
        temperature: of the softmax over patches, in cosines; > 0. A scalar tensor may have a gradient.
        weights: ``"softmax"``, or ``"minmax"`` as in SPARC.

    Images are taken a few at a time, so that memory is bounded; differentiable.

    Example:
        >>> text_conditioned_scores(torch.eye(2)[None], torch.eye(2), temperature=0.01)    # each text finds its patch
        tensor([[1., 1.]])
    """
    return _in_blocks(_Patches.of(patches_BPD), unit(pooled_ND), temperature, weights)


@dataclass(frozen=True)
class _Patches:
    """Patches as unit vectors ``[B, P, D]`` and their lengths ``[B, P]``: taken apart once for all texts."""

    unit_BPD: Tensor
    length_BP: Tensor

    @classmethod
    def of(cls, patches_BPD: Tensor) -> _Patches:
        patches = at_least_float32(patches_BPD)
        return cls(unit(patches), vector_norm(patches, dim=-1))

    def __getitem__(self, rows: slice | Tensor) -> _Patches:
        return _Patches(self.unit_BPD[rows], self.length_BP[rows])


def _in_blocks(patches: _Patches, unit_ND: Tensor, temperature: Tensor | float, weights: Weights) -> Tensor:
    """``[B, N]``, a few images at a time."""
    images, places, _ = patches.unit_BPD.shape
    step = max(1, contrastive.CELLS // max(len(unit_ND) * places, 1))
    blocks = [patches[start : start + step] for start in range(0, images, step)]
    return torch.cat([_scores(block, unit_ND.expand(len(block.unit_BPD), -1, -1), temperature, weights) for block in blocks])


def _scores(patches: _Patches, unit_BND: Tensor, temperature: Tensor | float, weights: Weights) -> Tensor:
    """``[B, N]``: the texts of image b are ``unit_BND[b]``."""
    patch_BPD, (texts, width), places = patches.unit_BPD, unit_BND.shape[1:], patches.unit_BPD.shape[1]
    cosine_BNP = unit_BND @ patch_BPD.mT
    weight = (cosine_BNP / temperature).softmax(-1) if weights == "softmax" else minmax_weights(cosine_BNP)
    weight = weight * patches.length_BP[:, None]  # so that unit vectors serve from here on
    along = (weight * cosine_BNP).sum(-1)  # the pooled patches' part along the text
    if places * (texts + width) < texts * width:  # their squared length, by way of the patches' products or of their sum
        square = ((weight @ (patch_BPD @ patch_BPD.mT)) * weight).sum(-1)
    else:
        square = (weight @ patch_BPD).square().sum(-1)
    return torch.where(square > TINY**2, along * square.clamp_min(TINY**2).rsqrt(), 0.0)


@dataclass(frozen=True)
class TextConditionedLoss:
    """Contrast of images pooled by each text.

    Attributes:
        pool_temperature: of the softmax over patches, in cosines; > 0.
        kind: ``"softmax"`` as CLIP, or ``"sigmoid"`` as SigLIP (then it needs a bias).
        weights: ``"softmax"`` over patches, or ``"minmax"`` as in SPARC.
        negatives: whose candidates hard negatives are: ``"none"``, of their ``"own"`` image, of ``"all"``.
        duplicates: ``"ignore"`` leaves known true pairs out; ``"negative"`` keeps them in.
    """

    pool_temperature: float = 0.1
    kind: Literal["softmax", "sigmoid"] = "softmax"
    weights: Weights = "softmax"
    negatives: Literal["none", "own", "all"] = "none"
    duplicates: Duplicates = "ignore"
    needs: ClassVar[frozenset[str]] = frozenset({"patches"})
    ranges: ClassVar[Ranges] = {"pool_temperature": (1e-12, 1e3)}

    def __post_init__(self) -> None:
        if self.kind == "sigmoid":
            object.__setattr__(self, "needs", frozenset({"patches", "bias"}))

    @full_precision
    def __call__(
        self,
        image: ImageFeatures,
        text: TextFeatures,
        pairing: Pairing,
        scale: Tensor,
        bias: Tensor | None = None,
        state: State | None = None,
        *,
        group: dist.ProcessGroup | None = None,
    ) -> LossOutput:
        if image.patches_BPD is None:
            raise ValueError("TextConditionedLoss needs patches_BPD; encode with needs={'patches'}")
        patches, text_ND, scale = _Patches.of(image.patches_BPD), unit(text.pooled_ND), at_least_float32(scale)
        shift = 0.0 if bias is None or self.kind == "softmax" else at_least_float32(bias)
        candidate = pairing.true_N | (self.negatives == "all")
        pairs, candidates_ND = pairing.select_texts(candidate), text_ND[candidate]
        everyone = gather_texts(candidates_ND, pairs, group)

        def scores(rows: slice) -> Tensor:
            cosine = _in_blocks(patches[rows], everyone.vectors_CD, self.pool_temperature, self.weights)
            return scale * cosine + shift

        def own(text_ND: Tensor, owner: Tensor) -> Tensor:
            cosine = _scores(patches[owner], text_ND[:, None], self.pool_temperature, self.weights)
            return scale * cosine.squeeze(1) + shift

        foils = None
        if self.negatives == "own":
            foil = own_foils(pairing, everyone, self.duplicates)
            foils = Foils(own(text_ND[foil], pairing.owner_N[foil]), pairing.owner_N[foil])
        cost = image.patches_BPD.shape[1]
        if self.kind == "sigmoid":
            if bias is None:
                raise ValueError('TextConditionedLoss with kind="sigmoid" needs a bias; use a model that learns one')
            return pair_sigmoid(RowScores(scores, cost), pairs, everyone, duplicates=self.duplicates, foils=foils)
        pair_P = pairs.true_N.nonzero().squeeze(1)
        rows = RowScores(scores, cost, own(candidates_ND[pair_P], pairs.owner_N[pair_P]))
        return pair_softmax(rows, pair_P, pairs, everyone, duplicates=self.duplicates, foils=foils)
