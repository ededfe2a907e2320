"""COSMOS's cross-attention: in training an image attends to words, and a text to patches; to use, the model is a plain CLIP.

Kim et al., CVPR 2025, arXiv 2412.01814, section 3.3; released code. Two attention modules of 8 heads, one a side::

    h_image = V + M attention( query LN(V), keys and values LN'(words of the image's first whole text) )
    h_text  = T + M' attention( query LN(T), keys and values LN'(patches of the image's first view) )

with V, T not normalised. Queries, keys and values are made here, once an image and once a text; which image meets which words, the
output maps M and the distillation's own scale are the loss's (``losses/cosmos.py``), by way of ``ImageFeatures.learned``.

Where we differ from the released code. It maps words and patches to the shared width by linear layers of their own; here the projections
of the base do. It starts all maps at random and trains from scratch; here M = M' = 0, so h starts as V or T and a fine-tuned model as its
base. It attends to padded positions, too; here they are masked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from wholegrain.features import ImageFeatures, TextFeatures
from wholegrain.losses.core.contract import MAX_SCALE
from wholegrain.towers.base import NOTHING, RawImage, RawText
from wholegrain.towers.heads.attention import split_heads
from wholegrain.towers.heads.base import Head, HeadSettings, Widths, required, without_patches


class CrossAttention(nn.Module):
    """The maps of one attention of a vector to the parts of the other side, G heads of width E each, G E = D."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_query, self.norm_slot = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.mix = (nn.Linear(width, width) for _ in range(4))
        for layer in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def queries(self, vector_ND: Tensor) -> Tensor:
        """Scaled queries ``[N, G, E]``."""
        query = self.query(self.norm_query(vector_ND)).unflatten(-1, (self.heads, -1))
        return query / query.shape[-1] ** 0.5

    def keys_values(self, slots_NSD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values ``[N, S, G, E]``."""
        slots_NSD = self.norm_slot(slots_NSD)
        return self.key(slots_NSD).unflatten(-1, (self.heads, -1)), self.value(slots_NSD).unflatten(-1, (self.heads, -1))


@dataclass(frozen=True)
class CosmosSettings(HeadSettings):
    """Attributes:
        attention_heads: the largest number up to it that divides the width.
    """

    attention_heads: int = 8
    ranges: ClassVar[dict[str, tuple[float, float]]] = {"attention_heads": (1, 1024)}

    def resolved(self, widths: Widths) -> Self:
        """A number of heads that divides the width."""
        return replace(self, attention_heads=split_heads(widths.shared, self.attention_heads))


class CosmosHead(Head):
    """The plain head, and two cross-attentions for training (see the module); pairs are scored by the cosine."""

    kind = "cosmos"
    read_out, attends = "attention", "cross"
    Settings = CosmosSettings
    saved: ClassVar[dict[str, str]] = {"attention_heads": "heads"}
    gives = frozenset({"cross"})
    settings: CosmosSettings

    def __init__(self, widths: Widths, settings: CosmosSettings | None = None) -> None:
        super().__init__(widths, settings)
        heads = self.settings.attention_heads
        self.to_words, self.to_patches = CrossAttention(widths.shared, heads), CrossAttention(widths.shared, heads)
        self.log_scale_1 = nn.Parameter(torch.full((1,), math.log(1 / 0.07)))

    def raw_needs(self, needs: frozenset[str]) -> frozenset[str]:
        """Attention is paid to patches and tokens."""
        return (super().raw_needs(needs) - self.gives) | ({"patches", "tokens"} if "cross" in needs else NOTHING)

    def project_image(self, raw: RawImage, needs: frozenset[str] = NOTHING) -> ImageFeatures:
        """The plain features; with ``cross`` in ``needs`` also queries, keys, values and what acts on pairs."""
        if "cross" not in needs:
            return super().project_image(raw, needs)
        image = super().project_image(raw, needs | {"patches"})
        keys_BPGE, values_BPGE = self.to_patches.keys_values(required(image.patches_BPD))
        return replace(
            without_patches(image, needs),
            query_BGE=self.to_words.queries(image.pooled_BD),
            keys_BGSE=keys_BPGE.transpose(1, 2),
            values_BGSE=values_BPGE.transpose(1, 2),
            learned={
                "cross_image_DA": self.to_words.mix.weight,
                "cross_image_D": self.to_words.mix.bias,
                "cross_text_DA": self.to_patches.mix.weight,
                "cross_text_D": self.to_patches.mix.bias,
                "cross_log_scale_1": self.log_scale_1,
            },
        )

    def project_text(self, raw: RawText, needs: frozenset[str] = NOTHING) -> TextFeatures:
        """The plain features; with ``cross`` in ``needs`` also queries, keys and values, and the mask of real tokens."""
        if "cross" not in needs:
            return super().project_text(raw, needs)
        text = super().project_text(raw, needs | {"tokens"})
        keys_NLGE, values_NLGE = self.to_words.keys_values(required(text.tokens_NLD))
        if "tokens" not in needs:
            text = replace(text, tokens_NLD=None)
        query_NGE = self.to_patches.queries(text.pooled_ND)
        return replace(text, query_NGE=query_NGE, keys_NLGE=keys_NLGE, values_NLGE=values_NLGE)

    @torch.no_grad()
    def keep_in_range(self) -> None:
        """The distillation's scale stays in 1 .. 100, as the model's."""
        self.log_scale_1.clamp_(0.0, math.log(MAX_SCALE))
