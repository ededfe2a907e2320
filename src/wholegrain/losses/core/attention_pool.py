"""Images pooled by attention, anew for every text, and the cosine of what comes out with that text: FLAIR's and Llip's score.

With q[g] a text's query, k[s,g] and w[s,g] an image's keys and values in attention head g, t the text's vector::

    u[g]       = sum over slots s of softmax_s( q[g] . k[s,g] ) w[s,g]
    z          = M concat_g(u[g]) + m
    score(i,n) = cos( z(i, n), t(n) )

What is learned lies in a head (:mod:`wholegrain.towers.heads.attention`): keys and values are made once an image, queries once a text,
so a pair costs the attention and M alone. Released code of FLAIR normalises and projects a text anew for every image that it
meets (17 times at 128 images and 8 texts each).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from wholegrain.features import ImageFeatures, TextFeatures
from wholegrain.losses.core.contract import at_least_float32, unit
from wholegrain.losses.core.pair_scores import blocks, joined


@dataclass(frozen=True)
class Pool:
    """What images offer to attention, in float32 at least; see the module docstring.

    Attributes:
        keys_BGSE, values_BGSE: of B images.
        mix_DA, mix_D: M and m, A = G x E.
    """

    keys_BGSE: Tensor
    values_BGSE: Tensor
    mix_DA: Tensor
    mix_D: Tensor

    @classmethod
    def of(cls, image: ImageFeatures, learned: Mapping[str, Tensor], who: str) -> Pool:
        """From a head's features; ``ValueError`` if the model's head gives none."""
        if image.keys_BGSE is None or image.values_BGSE is None or "mix_DA" not in learned:
            raise ValueError(f'{who} needs what texts attend to; set model.head to "flair" or "llip"')
        parts = (image.keys_BGSE, image.values_BGSE, learned["mix_DA"], learned["mix_D"])
        return cls(*(at_least_float32(part) for part in parts))

    @property
    def cost(self) -> int:
        """Numbers in memory for each pair."""
        heads, slots = self.keys_BGSE.shape[1:3]
        return 2 * heads * slots + self.mix_DA.shape[1] + 2 * self.mix_DA.shape[0]

    def scores(self, query_CGE: Tensor, text_CD: Tensor) -> Tensor:
        """Cosines of every image with every text, ``[B, C]``; ``text_CD`` are unit vectors."""

        def block(rows: slice, columns: slice) -> Tensor:
            query = query_CGE[columns].transpose(0, 1)  # [G, c, E]
            weight = (query @ self.keys_BGSE[rows].mT).softmax(-1)  # [b, G, c, S]
            attended = (weight @ self.values_BGSE[rows]).transpose(1, 2).flatten(2)  # [b, c, A]
            return (unit(self._mixed(attended)) * text_CD[columns]).sum(-1)

        return joined(blocks(block, len(self.keys_BGSE), len(query_CGE), self.cost))

    def own_scores(self, query_NGE: Tensor, text_ND: Tensor, image_N: Tensor) -> Tensor:
        """Cosine of each text with the image ``image_N`` alone, ``[N]``."""

        def block(_: slice, texts: slice) -> Tensor:
            place = image_N[texts]
            weight = (self.keys_BGSE[place] @ query_NGE[texts, :, :, None]).squeeze(3).softmax(2)  # [n, G, S]
            attended = (weight[:, :, None] @ self.values_BGSE[place]).flatten(1)
            return (unit(self._mixed(attended)) * text_ND[texts]).sum(-1)[None]

        cost = self.cost + 2 * self.keys_BGSE[:1].numel()  # each text reads keys and values of its own
        return joined(blocks(block, 1, len(query_NGE), cost)).squeeze(0)

    def _mixed(self, attended: Tensor) -> Tensor:
        return torch.nn.functional.linear(attended, self.mix_DA, self.mix_D)


def score(image: ImageFeatures, text: TextFeatures, learned: Mapping[str, Tensor]) -> Tensor:
    """The score for evaluation, ``[B, N]``; ``learned`` holds ``mix_DA`` and ``mix_D`` where the features are."""
    if text.query_NGE is None:
        raise ValueError('the texts have no queries; set model.head to "flair" or "llip"')
    return Pool.of(image, learned, "the score").scores(at_least_float32(text.query_NGE), unit(text.pooled_ND))
