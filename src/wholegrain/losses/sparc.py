"""SPARC's local loss: every word of a caption must find its own group of patches, inside one image-caption pair.

Per pair, with un-normalised patches v_p and tokens t_l (Bica et al., ICML 2024, arXiv 2401.09865, section 2, eq. 2-6)::

    s[l,p] = t_l . v_p
    w[l,p] = (s[l,p] - min_k s[l,k]) / (max_k s[l,k] - min_k s[l,k])      eq. 2: min-max over patches, per token
    w[l,p] = 0 where w[l,p] < sigma, sigma = 1/P                          eq. 3
    a[l,p] = w[l,p] / sum_r w[l,r]                                        eq. 4
    c_l    = sum_p a[l,p] v_p                                             eq. 5: language-grouped vision embedding
    loss   = mean over captions of 1/L sum_l 1/2 [ CE(c_l: t_l against the caption's tokens)
                                                 + CE(t_l: c_l against the caption's groups) ]       eq. 6

The logits of eq. 6 are scale * cosine, the scale shared with the global term.

The global term of the paper (eq. 1, 7) is ``losses/clip.py`` with weight 0.5 beside this.

Where sources differ. Eq. 6 averages per caption (``reduction="caption"``), the paper's listing over all tokens of the batch
(``"token"``: long captions weigh more). The listing does not mask min-max: it runs over patches, so it needs none. No code was
released; re-implementations normalise first (``similarity="cosine"``), detach the weights, or take sigma = 0.5. The paper gives
0/0 for a token to which all patches are equally similar; here such a token weighs all patches equally. ``weights="softmax"`` is
the paper's ablation, whose temperature it does not give: here s / sqrt(D) for dot products and scale * s for cosines, without
threshold.

Know before use: sigma = 1/P hardly sparsifies (about one patch in 196). The query t_l builds its own c_l, so the loss falls far
below ln L with unrelated images ("query leakage"), and no other image's patches are ever compared: ``control=True`` logs the same
loss with the images of this process shifted by one; only the distance to it speaks of alignment.

Padded tokens (mask False) are never read, whatever they hold. A caption of one token contributes 0. Hard negatives are not seen.
Duplicates: play no part; nothing is compared across pairs.
Cost: N x L x P x D multiply-adds twice; nothing is sent but two counts.

Example:
    >>> import torch
    >>> from wholegrain.features import ImageFeatures, Pairing, TextFeatures
    >>> image = ImageFeatures(torch.ones(1, 2), patches_BPD=torch.eye(2)[None], grid=(1, 2))
    >>> text = TextFeatures(torch.ones(1, 2), torch.eye(2)[None], torch.ones(1, 2, dtype=torch.bool))
    >>> loss = SparcLoss()(image, text, Pairing.one_to_one(1), torch.tensor(1.0))      # each token is one patch: ln(1 + e^-1)
    >>> round(loss.value.item(), 4)
    0.3133
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.contract import LossOutput, State, at_least_float32, full_precision, unit
from wholegrain.losses.gather import sum_over


def minmax_weights(similarity: Tensor, sigma: float | None = None, eps: float = 1e-6) -> Tensor:
    """SPARC's alignment weights over the last axis (patches), eq. 2-4: they sum to 1.

    Args:
        similarity: any shape ``[..., P]``.
        sigma: weights below it become 0; ``None`` is 1/P.
        eps: a row whose range is at most ``eps`` times its largest absolute value is constant: equal weights, no gradient.

    Example:
        >>> minmax_weights(torch.tensor([0.0, 1.0, 3.0])).tolist()
        [0.0, 0.25, 0.75]
    """
    patches = similarity.shape[-1]
    low, high = similarity.amin(-1, keepdim=True), similarity.amax(-1, keepdim=True)
    constant = (high - low) <= eps * torch.maximum(low.abs(), high.abs())
    weight = (similarity - low) * torch.where(constant, 1.0, high - low).reciprocal()
    weight = weight.masked_fill(weight < (1 / patches if sigma is None else sigma), 0.0)
    total = torch.where(constant, 1.0, weight.sum(-1, keepdim=True))  # the largest weight is 1, so the sum is at least 1
    return (weight * total.reciprocal()).masked_fill(constant, 1 / patches)


@dataclass(frozen=True)
class SparcLoss:
    """The sequence-wise local loss, eq. 2-6.

    Attributes:
        sigma: the threshold of eq. 3, 0..1; ``None`` is 1/P.
        reduction: ``"caption"``: every caption counts the same (eq. 6); ``"token"``: every token does (the listing).
        similarity: what builds the weights: ``"dot"`` of un-normalised vectors (the paper), or ``"cosine"``.
        weights: ``"minmax"`` (the paper) or ``"softmax"`` (its ablation).
        detach_weights: no gradient through the weights (not the paper).
        eps: relative range below which a token's similarities count as constant.
        control: log ``shuffled``, the same loss against another image of this process.
    """

    sigma: float | None = None
    reduction: Literal["caption", "token"] = "caption"
    similarity: Literal["dot", "cosine"] = "dot"
    weights: Literal["minmax", "softmax"] = "minmax"
    detach_weights: bool = False
    eps: float = 1e-6
    control: bool = False
    needs: ClassVar[frozenset[str]] = frozenset({"patches", "tokens"})

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
        if image.patches_BPD is None or text.tokens_NLD is None or text.mask_NL is None:
            raise ValueError("SparcLoss needs patches_BPD, tokens_NLD and mask_NL; encode with needs={'patches', 'tokens'}")
        true, scale = pairing.true_N, at_least_float32(scale)
        patches, owner, mask = at_least_float32(image.patches_BPD), pairing.owner_N[true], text.mask_NL[true]
        tokens = torch.where(mask[..., None], at_least_float32(text.tokens_NLD[true]), 0.0)  # padding may hold anything, even NaN
        value = self._share(patches[owner], tokens, mask, scale, group)
        parts = {}
        if self.control:
            with torch.no_grad():
                other = patches[(owner + 1) % len(patches)]
                parts["shuffled"] = self._share(other, tokens, mask, scale, group)
        return LossOutput(value, parts)

    def group_patches(self, patches_NPD: Tensor, tokens_NLD: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """The weights of eq. 4 and the grouped embeddings of eq. 5: ``[N, L, P]`` and ``[N, L, D]``."""
        if self.similarity == "cosine":
            similarity = unit(tokens_NLD) @ unit(patches_NPD).mT
        else:
            similarity = tokens_NLD @ patches_NPD.mT
        if self.weights == "minmax":
            weight = minmax_weights(similarity, self.sigma, self.eps)
        else:
            weight = (similarity * (scale if self.similarity == "cosine" else tokens_NLD.shape[-1] ** -0.5)).softmax(-1)
        weight = weight.detach() if self.detach_weights else weight
        return weight, weight @ patches_NPD

    def _share(self, patches_NPD: Tensor, tokens_NLD: Tensor, mask_NL: Tensor, scale: Tensor, group) -> Tensor:
        grouped = unit(self.group_patches(patches_NPD, tokens_NLD, scale)[1])
        logits = scale * (grouped @ unit(tokens_NLD).mT)  # [N, L grouped, L tokens]
        padded, floor = ~mask_NL, torch.finfo(logits.dtype).min / 4
        to_token = logits.masked_fill(padded[:, None, :], floor).logsumexp(2)
        to_group = logits.masked_fill(padded[:, :, None], floor).logsumexp(1)
        each = torch.where(mask_NL, (to_token + to_group) / 2 - logits.diagonal(dim1=1, dim2=2), 0.0)
        length = mask_NL.sum(1)
        if self.reduction == "token":
            return each.sum() / sum_over(length.sum(), group).clamp_min(1)
        return (each.sum(1) / length.clamp_min(1)).sum() / sum_over(length.new_tensor(len(length)), group).clamp_min(1)
