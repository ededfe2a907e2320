"""GLoRIA's local loss: every word gathers its regions in *every* image, and how well it finds them there is contrasted.

For image i with patches v[p] and text n with tokens t[l], both un-normalised, s[l,p] = t[l] . v[p]::

    own:    a[l,p] = softmax over p of 4 * (softmax over l of s[l,p])
    sparc:  a[l,p] = softmax over p of s[l,p] / sqrt(D)
    c[l]   = sum over p of a[l,p] v[p]
    Z(i,n) = log sum over l of exp( 5 cos(c[l], t[l]) )
    loss   = 1/2 [ CE over texts + CE over images ] of 10 * Z          (sparc: scale * Z / 5, a learned temperature)

Huang et al., ICCV 2021, section 3.3, and its released code (``variant="own"``, the released constants); the re-implementation of
SPARC (arXiv 2401.09865, section 4, ``variant="sparc"``).

Where sources differ. The paper's attention is a softmax over regions; the code first takes a softmax over *words* in each region.
The code adds the two directions (twice this loss) and gives the global loss (twice ``clip`` at scale 10) the same weight. It sums
word pieces into words and uses the last four layers; here a token is a word, as in SPARC. SPARC divides by sqrt(D) for stability
and learns the temperatures; of their places it says nothing, so the inner 5 stays and the outer one is learned. ``aggregate``: the
released sum favours long texts by log L_n, ``"mean"`` (an option of the code) does not.

A word builds its own region c[l] from any image ("query leakage", ``losses/sparc.py``), but rivals do so, too, with the same word
or in the same image, so only patches that carry the word help.

``negatives="all"``: hard negatives are candidates of every image. An image's other texts are neither positive nor negative.
Duplicates: ignored (``duplicates="ignore"``), or ``"negative"`` as released.
Cost: B_local x N x L x P x (D + min(P, D)) multiply-adds forward: the dearest loss here (SPARC measured 5.8 times CLIP's step
and 3.1 times its memory at batch 4096); here memory is bounded (:mod:`.pair_scores`). Sends every token.

Example:
    >>> import torch
    >>> from wholegrain.features import ImageFeatures, Pairing, TextFeatures
    >>> image = ImageFeatures(torch.ones(4, 8), patches_BPD=torch.ones(4, 9, 8), grid=(3, 3))
    >>> text = TextFeatures(torch.ones(4, 8), torch.ones(4, 5, 8), torch.ones(4, 5, dtype=torch.bool))
    >>> loss = GloriaLoss()(image, text, Pairing.one_to_one(4), torch.tensor(10.0))
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
from wholegrain.losses.core.contract import LossOutput, Ranges, State, at_least_float32, full_precision
from wholegrain.losses.core.known_true import Duplicates
from wholegrain.losses.core.pair_scores import (
    blocks,
    candidates,
    clean_tokens,
    gather_tokens,
    joined,
    pair_softmax_of,
    pooled_cosine,
)
from wholegrain.losses.core.typed_torch import vector_norm


@dataclass(frozen=True)
class GloriaLoss:
    """The symmetric softmax of word-region scores.

    Attributes:
        variant: ``"own"`` as released, ``"sparc"`` as SPARC re-implemented it; gives the values of what is ``None`` below.
        word_softmax: a softmax over words in each patch comes before the one over patches; own True, sparc False.
        attention_scale: factor within the softmax over patches; own 4, sparc ``1 / sqrt(D)`` (0 means that).
        pair_scale: factor on Z; own 10; 0 is ``scale / word_scale``, the learned temperature; sparc 0.
        word_scale: factor on a word's cosine within Z, above 0.
        aggregate: ``"sum"`` over words, as released, or their ``"mean"``.
        negatives: hard negatives are not seen (``"none"``), or candidates of ``"all"`` images.
        duplicates: ``"ignore"`` leaves known true pairs out of the denominators; ``"negative"`` keeps them in.
    """

    variant: Literal["own", "sparc"] = "own"
    word_softmax: bool | None = None
    attention_scale: float | None = None
    pair_scale: float | None = None
    word_scale: float = 5.0
    aggregate: Literal["sum", "mean"] = "sum"
    negatives: Literal["none", "all"] = "none"
    duplicates: Duplicates = "ignore"
    needs: ClassVar[frozenset[str]] = frozenset({"patches", "tokens"})
    ranges: ClassVar[Ranges] = {"attention_scale": (0, 1e6), "pair_scale": (0, 1e6), "word_scale": (1e-12, 1e3)}

    def __post_init__(self) -> None:
        if self.variant not in ("own", "sparc"):
            raise ValueError(f'variant = "{self.variant}" is not known; it must be "own" or "sparc"')
        own = self.variant == "own"
        for name, value in (("word_softmax", own), ("attention_scale", 4.0 * own), ("pair_scale", 10.0 * own)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.word_scale <= 0:
            raise ValueError(f"word_scale = {self.word_scale} is not allowed; it must be above 0")

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
            raise ValueError("GloriaLoss needs patches_BPD; encode with needs={'patches', 'tokens'}")
        chosen = candidates(pairing, self.negatives)
        pairs = pairing.select_texts(chosen)
        tokens, everyone = gather_tokens(clean_tokens(text, "GloriaLoss")[chosen], pairs, group)
        found_BC = self.scores(at_least_float32(image.patches_BPD), tokens.tokens_CLD, tokens.mask_CL)
        found_BC = found_BC * (self.pair_scale or at_least_float32(scale) / self.word_scale)
        return pair_softmax_of(found_BC, found_BC, pairs, everyone, duplicates=self.duplicates)

    def scores(self, patches_BPD: Tensor, tokens_CLD: Tensor, mask_CL: Tensor) -> Tensor:
        """Z of every image with every text, ``[B, C]``; 0 for a text without tokens. Un-normalised vectors."""
        length_CL = vector_norm(tokens_CLD.where(mask_CL[..., None], 1.0), dim=-1)

        def block(rows: slice, columns: slice) -> Tensor:
            patches, tokens, mask = patches_BPD[rows], tokens_CLD[columns], mask_CL[columns]
            dot = patches @ tokens.flatten(0, 1).T  # [b, P, cL]
            dot = dot.mT.view(len(patches), *mask.shape, patches.shape[1])  # [b, c, L, P]
            weight = self._attention(dot, mask, patches.shape[2])
            cosine = pooled_cosine(weight, dot, patches, length_CL[columns])
            total = (self.word_scale * cosine).masked_fill(~mask, torch.finfo(dot.dtype).min / 4).logsumexp(2)
            words = mask.sum(1)
            return torch.where(words > 0, total - (words.clamp_min(1).to(total.dtype).log() if self.aggregate == "mean" else 0.0), 0.0)

        cost = 2 * patches_BPD.shape[1] * mask_CL.shape[1]
        return joined(blocks(block, len(patches_BPD), len(mask_CL), cost))

    def _attention(self, dot: Tensor, mask: Tensor, width: int) -> Tensor:
        """``[b, c, L, P]``: each word's weights over patches."""
        if self.word_softmax:
            dot = dot.masked_fill(~mask[..., None], torch.finfo(dot.dtype).min / 4).softmax(2)
        return (dot * (self.attention_scale or width**-0.5)).softmax(3)


def score(image: ImageFeatures, text: TextFeatures, loss: GloriaLoss | None = None) -> Tensor:
    """Z for evaluation, ``[B, N]``, by the settings of ``loss``; the released code also adds the global cosine there."""
    if image.patches_BPD is None:
        raise ValueError("GLoRIA scores patches against tokens; encode with needs={'patches', 'tokens'}")
    tokens = clean_tokens(text, "GLoRIA")
    return (loss or GloriaLoss()).scores(at_least_float32(image.patches_BPD), tokens.tokens_CLD, tokens.mask_CL)
