"""DreamLIP's sub-caption grouping: each sentence of an image gathers its patches, and must be recognised from what it gathered.

For the true text n of image i, t[n] its vector and v[p] the image's patches, all of unit length::

    a    = SPARC's weights over p of cos(t[n], v[p]): min-max, threshold sigma, sum 1      (or softmax over p of scale * cos)
    g[n] = unit( sum over p of a[p] v[p] )
    loss = mean over texts of 1/2 [ CE of scale * cos(g[n], t[m]) over texts m  +  CE of scale * cos(t[n], g[m]) over groups m ]

Zheng et al., ECCV 2024, arXiv 2403.17007: the paper compares with the other sub-captions of the same image (``rivals="image"``, as
described by others), the released code with all pairs of the global batch (``rivals="batch"``). Its other term, the mean over
sub-captions of CLIP's loss, is ``clip`` with several captions an image (there rivals are texts in the same place, here all texts
of other images).

Where sources differ. The released branch stacks texts caption by caption and reads the rows image by image, so that with more than
one sub-caption most groups are made of *another image's* patches; here every text meets its own image, and ``patches_of="released"``
reproduces the release (equal to its code to rounding: ``docs/methods/fidelity.md``). The released temperature of this term is an argument
that is never given; here it is the learned scale. The code's threshold is 0 by default, a negative one
means 1/P (``sigma=None`` here); its softmax is of bare cosines, here of scale * cosine. It normalises before the similarity, unlike SPARC.

Know before use: as in SPARC the query t[n] builds its own answer g[n] ("query leakage"); with ``rivals="batch"`` the rivals of g[n]
come from other images, but the groups g[m] that t[n] is compared with were built by *their* texts. FLAIR's authors blame this
comparison of text with text for patches that mean little. ``text_conditioned`` and ``flair`` let every text gather from every image
instead.

Texts in the same words are neither positive nor negative; with ``rivals="batch"``, other texts of a copy of the image are rivals.
Hard negatives are not seen.
Cost: N_local x P x D + N_local x N x D multiply-adds forward; sends each text's vector once.

Example:
    >>> import torch
    >>> from wholegrain.features import ImageFeatures, Pairing, TextFeatures
    >>> image = ImageFeatures(torch.ones(4, 8), patches_BPD=torch.ones(4, 9, 8), grid=(3, 3))
    >>> loss = DreamlipLoss()(image, TextFeatures(torch.ones(4, 8)), Pairing.one_to_one(4), torch.tensor(10.0))
    >>> round(loss.value.exp().item(), 4)    # four candidates that cannot be told apart
    4.0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import logsigmoid

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.contract import LossOutput, Ranges, State, at_least_float32, full_precision, unit
from wholegrain.losses.core.gather import GlobalTexts, gather_rows, gather_texts, row_counts, sum_over
from wholegrain.losses.core.pair_scores import blocks, joined, lse_over_processes
from wholegrain.losses.sparc import minmax_weights


@dataclass(frozen=True)
class DreamlipLoss:
    """Sub-captions against the groups of patches that they gathered.

    Attributes:
        rivals: the other texts of the ``"batch"`` (as released), or of the same ``"image"`` (the paper).
        sigma: threshold of the weights, 0..1; ``None`` is 1/P.
        weights: ``"minmax"`` or ``"softmax"``.
        patches_of: what a text gathers from: its ``"own"`` image, or as ``"released"``: of all texts, the first of every image, then
            the second of every image and so on, the n-th gathers from the n-th of the images, each taken as often as it has texts.
            To reproduce, not to recommend; only with ``rivals="batch"``; sends every patch.
    """

    rivals: Literal["batch", "image"] = "batch"
    sigma: float | None = 0.0
    weights: Literal["minmax", "softmax"] = "minmax"
    patches_of: Literal["own", "released"] = "own"
    needs: ClassVar[frozenset[str]] = frozenset({"patches"})
    ranges: ClassVar[Ranges] = {"sigma": (0, 1)}

    def __post_init__(self) -> None:
        if self.patches_of == "released" and self.rivals != "batch":
            raise ValueError('patches_of = "released" goes with rivals = "batch", as in the release')

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
            raise ValueError("DreamlipLoss needs patches_BPD; encode with needs={'patches'}")
        pairs, scale = pairing.select_texts(pairing.true_N), at_least_float32(scale)
        text_ND, patches_BPD = unit(text.pooled_ND[pairing.true_N]), unit(image.patches_BPD)
        if self.rivals == "batch":
            everyone = gather_texts(text_ND, pairs, group)
        else:  # nothing of other processes is needed
            everyone = GlobalTexts(text_ND, pairs, 0, 0, None)
        image_N = pairs.owner_N
        if self.patches_of == "released":
            counts = row_counts(len(patches_BPD), device=patches_BPD.device, group=group)[0]
            patches_BPD = gather_rows(patches_BPD, counts, group)
            image_N = _as_released(everyone.pairing.owner_N)[everyone.texts_before : everyone.texts_before + len(text_ND)]
        grouped_ND = self.groups(patches_BPD, text_ND, image_N, scale)
        by_group_N, by_text_C = self._compare(grouped_ND, pairs, everyone, scale)
        if self.rivals == "batch":
            by_text_C = lse_over_processes(by_text_C, group)
        by_text_N = by_text_C[everyone.texts_before : everyone.texts_before + len(text_ND)]
        true_N = scale * (grouped_ND * text_ND).sum(1)
        texts = sum_over(true_N.new_tensor(float(len(true_N))), group).clamp_min(1)
        to_text = -logsigmoid(true_N - by_group_N).sum() / texts
        to_group = -logsigmoid(true_N - by_text_N).sum() / texts
        parts = {"group_to_text": to_text.detach(), "text_to_group": to_group.detach()}
        return LossOutput((to_text + to_group) / 2, parts)

    def groups(self, patches_BPD: Tensor, text_ND: Tensor, owner_N: Tensor, scale: Tensor) -> Tensor:
        """What each text gathers from the image ``owner_N``: unit vectors ``[N, D]``; takes unit vectors."""

        def block(_: slice, texts: slice) -> Tensor:
            patches, query = patches_BPD[owner_N[texts]], text_ND[texts]
            cosine = (patches @ query[..., None]).squeeze(2)  # [n, P]
            weight = minmax_weights(cosine, self.sigma) if self.weights == "minmax" else (scale * cosine).softmax(1)
            return unit((weight[:, None] @ patches).squeeze(1)).T[None]

        return joined(blocks(block, 1, len(owner_N), patches_BPD.shape[1] * patches_BPD.shape[2])).squeeze(0).T

    def _compare(self, grouped_ND: Tensor, pairs: Pairing, everyone: GlobalTexts, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Log-sum-exps of the rivals of every group ``[N]``, and of every text among this process's groups ``[C]``."""
        texts = everyone.pairing

        def block(rows: slice, columns: slice) -> Tensor:
            logits = scale * (grouped_ND[rows] @ everyone.vectors_CD[columns].T)
            out = pairs.text_id_N[rows, None] == texts.text_id_N[columns]
            if self.rivals == "image":
                out = out | (pairs.owner_N[rows, None] != texts.owner_N[columns])
            return logits.masked_fill(out, torch.finfo(logits.dtype).min / 4)

        logits_NC = joined(blocks(block, len(grouped_ND), len(texts.owner_N), 1))
        return logits_NC.logsumexp(1), logits_NC.logsumexp(0)


def _as_released(owner_C: Tensor) -> Tensor:
    """The image that each text of the global batch gathers from in the released code: ``[C]``.

    Example:
        >>> _as_released(torch.tensor([0, 0, 1, 1, 2, 2])).tolist()    # stacked: 0 1 2 0 1 2; read as: 0 0 1 1 2 2
        [0, 1, 0, 2, 1, 2]
    """
    by_image, texts = owner_C.sort(stable=True)
    nth = torch.arange(len(owner_C), device=owner_C.device) - torch.searchsorted(by_image, by_image)
    stacked = texts[(nth * len(owner_C) + by_image).argsort()]
    return torch.empty_like(owner_C).scatter_(0, stacked, by_image)
