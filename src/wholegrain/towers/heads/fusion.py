"""A small fusion model: a text's tokens attend to an image's patches, and the network says whether the two belong together.

The joint half of ALBEF (Li et al., NeurIPS 2021, arXiv 2107.07651, section 3.1) and X-VLM (Zeng et al., ICML 2022, arXiv
2111.08276): layers of self-attention among tokens, cross-attention to patches and a perceptron, then a two-way output, "image-text
matching". Two towers score a pair by one dot product; this reads both at once, at the price of a network pass for every pair.

As there, what the towers contrast takes part: the image's pooled vector stands before its patches, and what is read at the end begins as
the text's pooled vector (plus a learned one) before its tokens; there both are class tokens.

Differences. There the upper six layers of BERT are the fusion encoder, 768 wide and pre-trained; here a few layers of a width of their
own stand on the shared space of any two towers. They start from nothing, but not from noise, for in that space like things are
alike: vectors are made equally long, both sides go through the same map at first, and the cross-attention starts as the identity
with a minus, "what the text says without what it finds". (Frozen towers of the base model, 1,300 scenes, 64 pairs a step, half of them
right, width 64, one trial each: with random maps and without pooled vectors nothing was learned in 150 steps; so, 90% were
answered right after 120.) Layers normalise first (BERT: afterwards). The last map is zero at the start, so every pair begins with
log-odds 0. There the score at test time is the raw output of the class "match"; here it is the log-odds, the difference of both
outputs, which is what the loss learns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cosine_similarity, pad

from wholegrain.features import ImageFeatures, TextFeatures
from wholegrain.losses.core.contract import unit
from wholegrain.losses.core.pair_scores import blocks, joined
from wholegrain.towers.base import NOTHING, RawImage
from wholegrain.towers.heads.attention import split_heads
from wholegrain.towers.heads.base import Head, HeadSettings, Widths

PREFIX = "fusion."


class FusionEncoder(nn.Module):
    """Pooled vectors, patches and tokens of M pairs to log-odds ``[M]``.

    Args:
        shared: D, the width of patches and tokens.
        width: F, inside.
        layers: how many.
        heads: attention heads; must divide F.

    Example:
        >>> net = FusionEncoder(8, width=4, layers=1, heads=2)
        >>> image, text = ImageFeatures(torch.ones(3, 8), patches_BPD=torch.ones(3, 6, 8)), TextFeatures(torch.ones(3, 8))
        >>> net(image, replace(text, tokens_NLD=torch.ones(3, 5, 8), mask_NL=torch.ones(3, 5, dtype=torch.bool))).tolist()
        [0.0, 0.0, 0.0]
    """

    def __init__(self, shared: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.patch = nn.Linear(shared, width)
        self.token = nn.Linear(shared, width)
        self.ask_F = nn.Parameter(torch.randn(width) * width**-0.5)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm_patch, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.answer = nn.Linear(width, 2)
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        """See the module."""
        for parameter in (self.answer.weight, self.answer.bias, self.patch.bias, self.token.bias):
            parameter.zero_()
        nn.init.orthogonal_(self.patch.weight)
        self.token.weight.copy_(self.patch.weight)
        same = torch.eye(len(self.ask_F))
        for layer in self.layers:
            assert isinstance(layer, nn.TransformerDecoderLayer)
            across = layer.multihead_attn
            across.in_proj_weight.copy_(same.repeat(3, 1))
            across.out_proj.weight.copy_(-same / len(self.layers))

    def forward(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """Features of M images and M texts to ``[M]``; what padded positions hold plays no part, be it NaN."""
        patches, tokens, mask = image.patches_BPD, text.tokens_NLD, text.mask_NL
        if patches is None or tokens is None or mask is None:
            raise ValueError("the fusion model reads patches and tokens; encode with needs={'patches', 'tokens'}")
        if len(patches) == 0:  # torch's attention refuses it; everything still gets its gradient, zero
            parts = (*self.parameters(), image.pooled_BD, patches, text.pooled_ND, tokens)
            return torch.stack([part.sum().to(self.ask_F.dtype) for part in parts]).sum().expand(0)
        tokens = torch.where(mask[..., None], tokens, 0.0)
        seen_MPF = self.norm_patch(self.patch(self._even(torch.cat([image.pooled_BD[:, None], patches], 1))))
        read_MLF = self.token(self._even(torch.cat([text.pooled_ND[:, None], tokens], 1)))
        x = torch.cat([read_MLF[:, :1] + self.ask_F.to(read_MLF.dtype), read_MLF[:, 1:]], 1)
        empty = pad(~mask, (1, 0))
        for layer in self.layers:
            x = layer(x, seen_MPF, tgt_key_padding_mask=empty)
        no_M, yes_M = self.answer(self.norm(x[:, 0])).unbind(-1)
        return yes_M - no_M

    def _even(self, x: Tensor) -> Tensor:
        """Vectors of length sqrt(D), in the network's own type."""
        return (unit(x) * x.shape[-1] ** 0.5).to(self.patch.weight.dtype)


@dataclass(frozen=True)
class Match:
    """``ImageFeatures.match`` of a fusion head: the network's form, applied with the parameters in ``images.learned``."""

    encoder: FusionEncoder

    def __call__(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """Log-odds ``[M]`` of M images with M texts, row by row."""
        learned = {name.removeprefix(PREFIX): x for name, x in image.learned.items() if name.startswith(PREFIX)}
        return functional_call(self.encoder, learned, (image, text))


@dataclass(frozen=True)
class FusionSettings(HeadSettings):
    """Attributes:
        layers: how many.
        fusion_width: their width; 0 is the shared width.
        attention_heads: the largest number up to it that divides the width.
        score_cosine: weight of the cosine in the score.
    """

    layers: int = 3
    fusion_width: int = 0
    attention_heads: int = 8
    score_cosine: float = 0.0
    ranges: ClassVar[dict[str, tuple[float, float]]] = {
        "layers": (1, 100),
        "fusion_width": (0, 2**14),
        "attention_heads": (1, 1024),
        "score_cosine": (-1000, 1000),
    }

    def resolved(self, widths: Widths) -> Self:
        """A width, and a number of heads that divides it."""
        width = self.fusion_width or widths.shared
        return replace(self, fusion_width=width, attention_heads=split_heads(width, self.attention_heads))


class FusionHead(Head):
    """The plain projections, and a :class:`FusionEncoder` on projected patches and tokens.

    ``score(images, texts) -> [B, N]`` is the log-odds, plus ``score_cosine`` times the cosine (BLIP adds them with weight 1, ALBEF and X-VLM
    do not). The towers and the contrastive loss start as the base model; the network starts from nothing.
    """

    kind = "fusion"
    Settings = FusionSettings
    saved: ClassVar[dict[str, str]] = {
        "fusion_width": "width",
        "layers": "layers",
        "attention_heads": "heads",
        "score_cosine": "cosine",
    }
    gives = frozenset({"match"})
    scores_pairs = True
    score_needs = frozenset({"patches", "tokens"})
    settings: FusionSettings

    def __init__(self, widths: Widths, settings: FusionSettings | None = None) -> None:
        super().__init__(widths, settings)
        settings = self.settings
        self.fusion = FusionEncoder(widths.shared, settings.fusion_width, settings.layers, settings.attention_heads)

    def raw_needs(self, needs: frozenset[str]) -> frozenset[str]:
        """Matching is made here."""
        return super().raw_needs(needs) - self.gives

    def project_image(self, raw: RawImage, needs: frozenset[str] = NOTHING) -> ImageFeatures:
        """The plain features, with ``match`` and what it learns."""
        learned = {PREFIX + name: x for name, x in self.fusion.named_parameters()}
        return replace(super().project_image(raw, needs), learned=learned, match=Match(self.fusion))

    def score(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """A rectangle of pairs at a time."""
        device = image.pooled_BD.device
        learned = {PREFIX + name: x.to(device) for name, x in self.fusion.named_parameters()}
        image = ImageFeatures(image.pooled_BD, patches_BPD=image.patches_BPD, learned=learned)
        match = Match(self.fusion)

        def block(rows: slice, columns: slice) -> Tensor:
            row, column = torch.arange(rows.start, rows.stop), torch.arange(columns.start, columns.stop)
            pair = torch.cartesian_prod(row, column).view(-1, 2).to(device)
            images, texts = image.select(pair[:, 0]), text.select(pair[:, 1])
            return self.with_cosine(match(images, texts), images, texts).view(len(row), len(column))

        return joined(blocks(block, len(image.pooled_BD), len(text.pooled_ND), self._cost(image, text)))

    def with_cosine(self, score_M: Tensor, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """Log-odds ``[M]`` of M images with M texts, row by row, plus their weighted cosine."""
        weight = self.settings.score_cosine
        return score_M + weight * cosine_similarity(image.pooled_BD, text.pooled_ND) if weight else score_M

    def _cost(self, image: ImageFeatures, text: TextFeatures) -> int:
        """Numbers in memory for each pair, about."""
        patches = 0 if image.patches_BPD is None else image.patches_BPD.shape[1]
        tokens = 0 if text.tokens_NLD is None else text.tokens_NLD.shape[1] + 1
        width = self.settings.fusion_width + self.widths.shared
        return 3 * patches * width + 8 * tokens * width + self.settings.attention_heads * tokens * (tokens + patches)
