"""FILIP's token-wise contrast: every patch finds its best word, every word its best patch, and the means are contrasted.

For image i with P patches and text n with L_n tokens, all of unit length, x[p,l] = cos(v[i,p], t[n,l])::

    s_I(i,n) = mean over p of max over l of x[p,l]          for choosing a text for image i
    s_T(i,n) = mean over l of max over p of x[p,l]          for choosing an image for text n
    loss     = 1/2 [ CE over texts of scale * s_I  +  CE over images of scale * s_T ]

Yao et al., ICLR 2022, arXiv 2111.07783, section 3.1. The two scores differ; padded tokens take part in neither max nor mean.

Where sources differ. No code of the authors is known to us. For speed the paper keeps, of every image and text, the 25% of tokens
with the largest best similarity to anything in the process's batch (``keep=0.25``); SPARC's re-implementation drops 20%
(``variant="sparc"``: ``keep=0.8``). Here a token's rank is its best similarity within its own pairs, so that the loss does not
depend on how the batch is spread over processes; ``keep=1`` is the bare formula. The paper adds augmentation, back-translation and
256-wide features in half precision; SPARC does without. Public re-implementations often average over padded tokens.

Know before use: alone it was far below CLIP in SPARC's tables (52.7 against 66.7 in ImageNet top-1), together with CLIP level
with it; in the authors' and other tables it is above. A max has a gradient in one partner only: start from a trained model or a
warm-up, and add ``clip``.

``negatives="all"``: hard negatives are candidates of every image. An image's other texts are neither positive nor negative.
Duplicates: ignored (``duplicates="ignore"``), or ``"negative"``.
Cost: B_local x N x P x L x D multiply-adds forward, a factor P x L above CLIP; memory is bounded (:mod:`.pair_scores`); sends
every token.

Example:
    >>> import torch
    >>> from wholegrain.features import ImageFeatures, Pairing, TextFeatures
    >>> image = ImageFeatures(torch.ones(4, 8), patches_BPD=torch.ones(4, 9, 8), grid=(3, 3))
    >>> text = TextFeatures(torch.ones(4, 8), torch.ones(4, 5, 8), torch.ones(4, 5, dtype=torch.bool))
    >>> loss = FilipLoss()(image, text, Pairing.one_to_one(4), torch.tensor(10.0))
    >>> round(loss.value.exp().item(), 4)    # four candidates that cannot be told apart
    4.0
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.contract import LossOutput, Ranges, State, at_least_float32, full_precision, unit
from wholegrain.losses.core.known_true import Duplicates
from wholegrain.losses.core.pair_scores import (
    MaskedTokens,
    blocks,
    candidates,
    clean_tokens,
    gather_tokens,
    joined,
    pair_softmax_of,
)

KEPT = {"own": 1.0, "sparc": 0.8}


def filip_scores(patches_BPD: Tensor, tokens_CLD: Tensor, mask_CL: Tensor) -> tuple[Tensor, Tensor]:
    """``s_I`` and ``s_T`` of every image with every text, ``[B, C]`` each; 0 for a text without tokens.

    Args:
        patches_BPD, tokens_CLD: unit vectors; padded tokens must be finite.
        mask_CL: True at tokens.

    Example:
        >>> patches, words = torch.eye(2)[None], torch.tensor([[[1.0, 0.0]]])       # two patches, one word: one patch says it
        >>> [s.item() for s in filip_scores(patches, words, torch.ones(1, 1, dtype=torch.bool))]
        [0.5, 1.0]
    """
    length_C = mask_CL.sum(1)

    def block(rows: slice, columns: slice) -> Tensor:
        patches, tokens, mask = patches_BPD[rows], tokens_CLD[columns], mask_CL[columns]
        cosine = patches.flatten(0, 1) @ tokens.flatten(0, 1).T
        cosine = cosine.view(*patches.shape[:2], *mask.shape)  # [b, P, c, L]
        real = length_C[columns] > 0
        best_word = cosine.masked_fill(~mask, -2.0).amax(3)  # below every cosine
        to_text = torch.where(real, best_word.mean(1), 0.0)
        best_patch = cosine.amax(1).masked_fill(~mask, 0.0)
        return torch.stack([to_text, best_patch.sum(2) / length_C[columns].clamp_min(1)])

    cost = patches_BPD.shape[1] * mask_CL.shape[1]
    to_text, to_image = joined(blocks(block, len(patches_BPD), len(mask_CL), cost))
    return to_text, to_image


def score(image: ImageFeatures, text: TextFeatures) -> Tensor:
    """One number a pair, ``[B, N]``, for evaluation: the mean of ``s_I`` and ``s_T`` (the paper ranks texts by the first and
    images by the second)."""
    if image.patches_BPD is None:
        raise ValueError("FILIP scores patches against tokens; encode with needs={'patches', 'tokens'}")
    tokens = clean_tokens(text, "FILIP")
    to_text, to_image = filip_scores(unit(image.patches_BPD), unit(tokens.tokens_CLD), tokens.mask_CL)
    return (to_text + to_image) / 2


@dataclass(frozen=True)
class FilipLoss:
    """The symmetric softmax of token-wise best matches.

    Attributes:
        variant: ``"own"``: the formula with all tokens; ``"sparc"``: 20% of them dropped.
        keep: share of an image's patches and of a text's tokens that are kept, in (0, 1]; ``None`` is the variant's.
        negatives: hard negatives are not seen (``"none"``), or candidates of ``"all"`` images.
        duplicates: ``"ignore"`` leaves known true pairs out of the denominators; ``"negative"`` keeps them in.
    """

    variant: Literal["own", "sparc"] = "own"
    keep: float | None = None
    negatives: Literal["none", "all"] = "none"
    duplicates: Duplicates = "ignore"
    needs: ClassVar[frozenset[str]] = frozenset({"patches", "tokens"})
    ranges: ClassVar[Ranges] = {"keep": (0, 1)}

    def __post_init__(self) -> None:
        if self.variant not in KEPT:
            raise ValueError(f'variant = "{self.variant}" is not known; it must be "own" or "sparc"')
        if self.keep is not None and not 0 < self.keep <= 1:
            raise ValueError(f"keep = {self.keep} is not allowed; it must be a share above 0 and at most 1")

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
            raise ValueError("FilipLoss needs patches_BPD; encode with needs={'patches', 'tokens'}")
        chosen = candidates(pairing, self.negatives)
        pairs, scale = pairing.select_texts(chosen), at_least_float32(scale)
        tokens = clean_tokens(text, "FilipLoss")[chosen]
        patches, tokens = unit(image.patches_BPD), MaskedTokens(unit(tokens.tokens_CLD), tokens.mask_CL)
        share = KEPT[self.variant] if self.keep is None else self.keep
        if share < 1:
            patches, tokens = keep_best(patches, tokens, pairs, share)
        all_tokens, everyone = gather_tokens(tokens, pairs, group)
        to_text, to_image = filip_scores(patches, all_tokens.tokens_CLD, all_tokens.mask_CL)
        return pair_softmax_of(scale * to_text, scale * to_image, pairs, everyone, duplicates=self.duplicates)


def keep_best(patches_BPD: Tensor, tokens: MaskedTokens, pairing: Pairing, share: float) -> tuple[Tensor, MaskedTokens]:
    """Of every image the ``ceil(share * P)`` patches, of every text the ``ceil(share * L_n)`` tokens that match best within
    their own pairs. Which are kept has no gradient; dropped tokens leave the mask, dropped patches the tensor."""
    images, places = patches_BPD.shape[:2]
    if len(pairing.owner_N) == 0:
        return patches_BPD[:, : math.ceil(share * places)], tokens
    with torch.no_grad():
        owner, floor = pairing.owner_N, torch.tensor(-2.0, dtype=patches_BPD.dtype, device=patches_BPD.device)

        def block(texts: slice, _: slice) -> Tensor:
            cosine = patches_BPD[owner[texts]] @ tokens.tokens_CLD[texts].mT  # [n, P, L]
            cosine = torch.where(tokens.mask_CL[texts][:, None], cosine, floor)
            return torch.cat([cosine.amax(2), cosine.amax(1)], 1)

        best_N = torch.cat([row[0] for row in blocks(block, len(owner), 1, places * tokens.mask_CL.shape[1])])
        by_patch, by_token = best_N[:, :places], best_N[:, places:]
        true = pairing.true_N
        best_BP = floor.expand(images, places).clone()
        best_BP.scatter_reduce_(0, owner[true][:, None].expand(-1, places), by_patch[true], "amax")
        # Stable: an image without texts keeps its first patches, in whichever process it is.
        kept_BK = best_BP.argsort(dim=1, descending=True, stable=True)[:, : math.ceil(share * places)]
        rank_NL = by_token.argsort(dim=1, descending=True, stable=True).argsort(1)
        mask = tokens.mask_CL & (rank_NL < (share * tokens.mask_CL.sum(1, keepdim=True)).ceil())
    patches = patches_BPD.gather(1, kept_BK[..., None].expand(-1, -1, patches_BPD.shape[2]))
    return patches, MaskedTokens(tokens.tokens_CLD, mask)
