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
0/0 for a token to which all patches are equally similar; here such a token weighs all patches equally.

**The paper's ablations** (table 8) as settings: no threshold is ``sigma=0``; softmax weights are ``weights="softmax"``, whose
temperature the paper does not give: ``temperature=None`` divides dot products by sqrt(D) and cosines by 1 / scale,
``temperature=1`` with dot products is the bare softmax, which saturates; there is no threshold with it.

**Query leakage.** sigma = 1/P hardly sparsifies (about one patch in 196). The query t_l builds its own c_l, so the loss falls far
below ln L with unrelated images, and no other image's patches are ever compared: ``control=True`` logs the same loss with the
images of this process shifted by one; only the distance to it speaks of alignment. What cures it: ``rivals="images"``: token l of
caption n groups the patches of *every* image j into c[j,l], and its own image must be recognised::

    loss = mean over captions of 1/L sum_l CE of scale * cos(c[j,l], t_l) over images j

The same token builds all the groups that it is compared with, so leakage helps all images alike: with unrelated images the loss
cannot fall below ln B. It costs B times as much. ``"both"`` is the mean of the two losses. Cheaper cures lie beside this loss:
``text_conditioned`` on phrases (one query a phrase), or more ``clip``; ``detach_weights`` takes the shortcut's gradient, not the
shortcut. A text known to be true of an image is not a rival there (duplicates are ignored).

Padded tokens (mask False) are never read, whatever they hold. A caption of one token contributes 0. Hard negatives are not seen.
Duplicates: play no part with ``rivals="tokens"``; nothing is compared across pairs.
Cost: N x L x P x D multiply-adds twice; nothing is sent but two counts. ``rivals="images"``: B_local x N x L x P x (D + min(P, D)),
in bounded memory (:mod:`.pair_scores`); sends every token.

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
from torch.nn.functional import logsigmoid

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.contract import TINY, LossOutput, Ranges, State, at_least_float32, full_precision, unit
from wholegrain.losses.core.gather import sum_over
from wholegrain.losses.core.known_true import KnownTrue
from wholegrain.losses.core.pair_scores import (
    MaskedTokens,
    blocks,
    clean_tokens,
    gather_tokens,
    lse_over_processes,
    pooled_cosine,
)
from wholegrain.losses.core.typed_torch import vector_norm


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
    least = torch.finfo(similarity.dtype).tiny  # below it the reciprocal of the range is infinite
    constant = (high - low) <= (eps * torch.maximum(low.abs(), high.abs())).clamp_min(least)
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
        temperature: of softmax weights, above 0; ``None``: sqrt(D) for dot products, 1 / scale for cosines.
        detach_weights: no gradient through the weights (not the paper).
        rivals: a token is told from the other ``"tokens"`` of its caption (the paper), its image from other ``"images"``, or
            ``"both"``, in equal parts.
        eps: relative range below which a token's similarities count as constant.
        control: log ``shuffled``, the same loss against another image of this process.
    """

    sigma: float | None = None
    reduction: Literal["caption", "token"] = "caption"
    similarity: Literal["dot", "cosine"] = "dot"
    weights: Literal["minmax", "softmax"] = "minmax"
    temperature: float | None = None
    detach_weights: bool = False
    rivals: Literal["tokens", "images", "both"] = "tokens"
    eps: float = 1e-6
    control: bool = False
    needs: ClassVar[frozenset[str]] = frozenset({"patches", "tokens"})
    ranges: ClassVar[Ranges] = {"sigma": (0, 1), "temperature": (1e-12, 1e3), "eps": (1e-12, 1e3)}

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
            raise ValueError("SparcLoss needs patches_BPD; encode with needs={'patches', 'tokens'}")
        true, scale = pairing.true_N, at_least_float32(scale)
        patches, owner = at_least_float32(image.patches_BPD), pairing.owner_N[true]
        tokens = clean_tokens(text, "SparcLoss")[true]
        value: Tensor | None = None
        parts: dict[str, Tensor] = {}
        if self.rivals != "images":
            value = self._share(patches[owner], tokens, scale, group)
        if self.rivals != "tokens":
            by_images = self._among_images(patches, tokens, pairing.select_texts(true), scale, group)
            parts = {"images": by_images.detach()} if value is None else {"tokens": value.detach(), "images": by_images.detach()}
            value = by_images if value is None else (value + by_images) / 2
        assert value is not None
        if self.control:
            with torch.no_grad():
                parts["shuffled"] = self._share(patches[(owner + 1) % len(patches)], tokens, scale, group)
        return LossOutput(value, parts)

    def group_patches(self, patches_NPD: Tensor, tokens_NLD: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """The weights of eq. 4 and the grouped embeddings of eq. 5: ``[N, L, P]`` and ``[N, L, D]``."""
        weight = self._weigh(tokens_NLD @ patches_NPD.mT, tokens_NLD, patches_NPD, scale)
        return weight, weight @ patches_NPD

    def _weigh(self, dot: Tensor, tokens: Tensor, patches: Tensor, scale: Tensor) -> Tensor:
        """Weights over the last axis of the dot products ``[..., L, P]`` of tokens ``[..., L, D]`` and patches ``[..., P, D]``."""
        factor: Tensor | float = tokens.shape[-1] ** -0.5
        if self.similarity == "cosine":
            length = vector_norm(tokens, dim=-1)[..., None] * vector_norm(patches, dim=-1)[..., None, :]
            dot, factor = dot * torch.where(length > TINY, length.clamp_min(TINY).reciprocal(), 0.0), scale
        if self.weights == "minmax":
            weight = minmax_weights(dot, self.sigma, self.eps)
        else:
            weight = (dot * (factor if self.temperature is None else 1 / self.temperature)).softmax(-1)
        return weight.detach() if self.detach_weights else weight

    def _share(self, patches_NPD: Tensor, tokens: MaskedTokens, scale: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        grouped = unit(self.group_patches(patches_NPD, tokens.tokens_CLD, scale)[1])
        logits = scale * (grouped @ unit(tokens.tokens_CLD).mT)  # [N, L grouped, L tokens]
        padded, floor = ~tokens.mask_CL, torch.finfo(logits.dtype).min / 4
        to_token = logits.masked_fill(padded[:, None, :], floor).logsumexp(2)
        to_group = logits.masked_fill(padded[:, :, None], floor).logsumexp(1)
        return self._mean((to_token + to_group) / 2 - logits.diagonal(dim1=1, dim2=2), tokens.mask_CL, group)

    def _among_images(self, patches_BPD: Tensor, tokens: MaskedTokens, pairs: Pairing, scale: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        """Every token's own image among the images of the global batch."""
        all_tokens, everyone = gather_tokens(tokens, pairs, group)
        known = KnownTrue(pairs, everyone, "ignore")

        def block(rows: slice, columns: slice) -> Tensor:
            found = scale * self._found(patches_BPD[rows], all_tokens[columns].tokens_CLD, scale)
            out = known(rows)[:, columns, None]
            return found.masked_fill(out, torch.finfo(found.dtype).min / 4).logsumexp(0).T[:, None]  # [L, 1, c]

        count, length = all_tokens.mask_CL.shape
        table = blocks(block, len(patches_BPD), count, 3 * patches_BPD.shape[1] * length)
        rest_CL = torch.cat([torch.cat(row, 2) for row in table], 1).logsumexp(1).T
        rest_CL = lse_over_processes(rest_CL.reshape(-1), group).view(count, length)
        mine = slice(everyone.texts_before, everyone.texts_before + len(tokens.mask_CL))
        rest_NL = rest_CL[mine, : tokens.mask_CL.shape[1]]
        grouped = unit(self.group_patches(patches_BPD[pairs.owner_N], tokens.tokens_CLD, scale)[1])
        true_NL = scale * (grouped * unit(tokens.tokens_CLD)).sum(2)
        return self._mean(-logsigmoid(true_NL - rest_NL), tokens.mask_CL, group)

    def _found(self, patches_BPD: Tensor, tokens_CLD: Tensor, scale: Tensor) -> Tensor:
        """How well each token recognises what it grouped in each image: cosines ``[B, C, L]``."""
        length_CL = vector_norm(tokens_CLD, dim=-1)
        dot = (patches_BPD @ tokens_CLD.flatten(0, 1).T).mT  # [b, cL, P]
        weight = self._weigh(dot, tokens_CLD.flatten(0, 1), patches_BPD, scale)
        return pooled_cosine(weight, dot, patches_BPD, length_CL.flatten()).view(len(patches_BPD), *length_CL.shape)

    def _mean(self, each_NL: Tensor, mask_NL: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        """This process's share of the mean over captions or tokens of the global batch."""
        each_NL, length_N = torch.where(mask_NL, each_NL, 0.0), mask_NL.sum(1)
        if self.reduction == "token":
            return each_NL.sum() / sum_over(length_N.sum(), group).clamp_min(1)
        return (each_NL.sum(1) / length_N.clamp_min(1)).sum() / sum_over(length_N.new_tensor(len(length_N)), group).clamp_min(1)
