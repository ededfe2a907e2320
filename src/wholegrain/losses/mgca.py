"""MGCA's token-wise alignment: inside each pair, words find themselves in their patches and patches in their words.

For image i with patches v[p] and its text n with tokens t[l], all of unit length, T the temperature::

    o[l] = sum over p of softmax_p( cos(t[l], v[p]) / T ) v[p]        a word, said by patches
    o[p] = sum over l of softmax_l( cos(v[p], t[l]) / T ) t[l]        a patch, said by words
    loss = mean over texts of [ mean over l of CE sym of cos(t[l], o[k]) / T against the text's other words
                              + mean over p of CE sym of cos(v[p], o[q]) / T against the image's other patches ]

CE sym is the mean of the two directions. Wang et al., NeurIPS 2022, arXiv 2210.06044, term CTA; the released code
(``variant="own"``: T = 0.1 throughout); SPARC's re-implementation (arXiv 2401.09865, ``variant="sparc"``: T learned, here
1 / scale). MGCA's other terms: its global one is ``clip`` (the code adds both directions: twice ours), its prototypes are
``mgca_prototypes``. Released weights of the three: 1, 0.7, 0.5; SPARC's: 1, 1, 1.

Where sources differ. Paper and SPARC put learned maps of queries, keys and values into the attention; the code's default has none,
nor has this. The code weighs words and patches by the last layer's attention to [CLS], clipped to its 10th and 90th percentile;
SPARC has no [CLS] and weighs them equally, as here (and as the code does for its ResNet patches). The code leaves padded words in
the denominators; here they are out. With a ViT the code forgets to normalise o[p]; here it is normalised. It works in 128 learned
dimensions, here in the shared width.

Know before use: nothing is compared across pairs, and each query builds its own answer ("query leakage", ``losses/sparc.py``), in
both halves: a low value is no evidence of alignment; ``control=True`` logs the loss with the images of this process shifted by one.

Hard negatives are not seen. Duplicates: play no part. A caption of one token has no word half.
Cost: N x P x D x (3 L + 2 P) multiply-adds forward, a few texts at a time (:mod:`.pair_scores`); sends one count.

Example:
    >>> import torch
    >>> from wholegrain.features import ImageFeatures, Pairing, TextFeatures
    >>> image = ImageFeatures(torch.ones(1, 8), patches_BPD=torch.ones(1, 3, 8), grid=(1, 3))
    >>> text = TextFeatures(torch.ones(1, 8), torch.ones(1, 5, 8), torch.ones(1, 5, dtype=torch.bool))
    >>> loss = MgcaLoss()(image, text, Pairing.one_to_one(1), torch.tensor(10.0))
    >>> round(loss.value.exp().item(), 4)    # five words that cannot be told apart, and three patches
    15.0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.contract import LossOutput, Ranges, State, at_least_float32, full_precision, unit
from wholegrain.losses.core.gather import sum_over
from wholegrain.losses.core.pair_scores import blocks, clean_tokens


@dataclass(frozen=True)
class MgcaLoss:
    """The token-wise alignment of MGCA, in both halves.

    Attributes:
        variant: ``"own"``: a fixed temperature of 0.1; ``"sparc"``: the learned one.
        temperature: in cosines, above 0; ``None`` is the variant's.
        bidirectional: patches find their words, too (the code's default).
        control: log ``shuffled``, the same loss against another image of this process.
    """

    variant: Literal["own", "sparc"] = "own"
    temperature: float | None = None
    bidirectional: bool = True
    control: bool = False
    needs: ClassVar[frozenset[str]] = frozenset({"patches", "tokens"})
    ranges: ClassVar[Ranges] = {"temperature": (1e-12, 1e3)}

    def __post_init__(self) -> None:
        if self.variant not in ("own", "sparc"):
            raise ValueError(f'variant = "{self.variant}" is not known; it must be "own" or "sparc"')
        if self.temperature is not None and self.temperature <= 0:
            raise ValueError(f"temperature = {self.temperature} is not allowed; it must be above 0")

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
            raise ValueError("MgcaLoss needs patches_BPD; encode with needs={'patches', 'tokens'}")
        true, sharpness = pairing.true_N, at_least_float32(scale)
        if self.variant == "own" or self.temperature is not None:
            sharpness = torch.full_like(sharpness, 1 / (self.temperature or 0.1))
        tokens = clean_tokens(text, "MgcaLoss")[true]
        tokens_NLD, owner_N = unit(tokens.tokens_CLD), pairing.owner_N[true]
        patches_BPD = unit(image.patches_BPD)
        texts = sum_over(owner_N.new_tensor(len(owner_N)), group).clamp_min(1)
        word, patch = self._halves(patches_BPD, tokens_NLD, tokens.mask_CL, owner_N, sharpness) / texts
        parts = {"word": word.detach(), "patch": patch.detach()}
        if self.control:
            with torch.no_grad():
                other_N = (owner_N + 1) % len(patches_BPD)
                parts["shuffled"] = self._halves(patches_BPD, tokens_NLD, tokens.mask_CL, other_N, sharpness).sum() / texts
        return LossOutput(word + patch, parts)

    def _halves(self, patches_BPD: Tensor, tokens_NLD: Tensor, mask_NL: Tensor, owner_N: Tensor, sharpness: Tensor) -> Tensor:
        """The two sums over texts, ``[2]``."""

        def block(texts: slice, _: slice) -> Tensor:
            patches, tokens, mask = patches_BPD[owner_N[texts]], tokens_NLD[texts], mask_NL[texts]
            cosine = sharpness * (tokens @ patches.mT)  # [n, L, P]
            found = unit(cosine.softmax(2) @ patches)
            word = matching(sharpness * (tokens @ found.mT), mask)
            if not self.bidirectional:
                return torch.stack([word, torch.zeros_like(word)])
            floor = torch.finfo(cosine.dtype).min / 4
            found = unit(cosine.mT.masked_fill(~mask[:, None], floor).softmax(2) @ tokens)
            spoken = mask.any(1)
            patch = matching(sharpness * (patches @ found.mT), spoken[:, None].expand(-1, patches.shape[1]))
            return torch.stack([word, patch])

        places, length = patches_BPD.shape[1], mask_NL.shape[1]
        cost = 2 * (places + length) * (places + length + patches_BPD.shape[2])
        return torch.stack([row[0] for row in blocks(block, len(owner_N), 1, cost)]).sum(0)


def matching(logits_NSS: Tensor, mask_NS: Tensor) -> Tensor:
    """Cross entropy of the diagonal in both directions, their mean over what ``mask`` holds, summed over N."""
    floor, out = torch.finfo(logits_NSS.dtype).min / 4, ~mask_NS
    forth = logits_NSS.masked_fill(out[:, None, :], floor).logsumexp(2)
    back = logits_NSS.masked_fill(out[:, :, None], floor).logsumexp(1)
    each = torch.where(mask_NS, (forth + back) / 2 - logits_NSS.diagonal(dim1=1, dim2=2), 0.0)
    return (each.sum(1) / mask_NS.sum(1).clamp_min(1)).sum()
