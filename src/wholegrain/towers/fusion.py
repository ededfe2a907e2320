"""A small fusion model: a text's tokens attend to an image's patches, and the network says whether the two belong together.

The joint half of ALBEF (Li et al., NeurIPS 2021, arXiv 2107.07651, section 3.1) and X-VLM (Zeng et al., ICML 2022, arXiv
2111.08276): layers of self-attention among tokens, cross-attention to patches and a perceptron, then a two-way output, "image-text
matching". Two towers score a pair by one dot product; this reads both at once, at the price of a network pass for every pair.

Differences. There the upper six layers of BERT are the fusion encoder, 768 wide, and BERT's class token is read; here a few layers of
a width of their own stand on the projected patches and tokens of any two towers, and a learned query beside the tokens is read (a
CLIP text tower has no class token that has seen the text). Layers normalise first (BERT: afterwards). The last map is zero at the
start, so every pair begins with log-odds 0. There the score at test time is the raw output of the class "match"; here it is the
log-odds, the difference of both outputs, which is what the loss learns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cosine_similarity, pad

from wholegrain.errors import UserError
from wholegrain.features import ImageFeatures, TextFeatures
from wholegrain.losses.pair_scores import blocks, joined
from wholegrain.towers.heads import HeadConfig, PlainHead, Widths
from wholegrain.towers.pair_heads import split_heads
from wholegrain.towers.tower import NOTHING, RawImage

PREFIX = "fusion."


class FusionEncoder(nn.Module):
    """Patches and tokens of M pairs to log-odds ``[M]``.

    Args:
        shared: D, the width of patches and tokens.
        width: F, inside.
        layers: how many.
        heads: attention heads; must divide F.

    Example:
        >>> net = FusionEncoder(8, width=4, layers=1, heads=2)
        >>> net(torch.ones(3, 6, 8), torch.ones(3, 5, 8), torch.ones(3, 5, dtype=torch.bool)).tolist()
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
        nn.init.zeros_(self.answer.weight)
        nn.init.zeros_(self.answer.bias)

    def forward(self, patches_MPD: Tensor, tokens_MLD: Tensor, mask_ML: Tensor) -> Tensor:
        """``[M, P, D]``, ``[M, L, D]`` and bool ``[M, L]`` to ``[M]``; what padded positions hold plays no part, be it NaN."""
        if len(patches_MPD) == 0:  # torch's attention refuses it; every parameter still gets its gradient, zero
            parts = (*self.parameters(), patches_MPD, tokens_MLD)
            return torch.stack([part.sum().to(self.ask_F.dtype) for part in parts]).sum().expand(0)
        kind = self.patch.weight.dtype
        tokens_MLD = torch.where(mask_ML[..., None], tokens_MLD, 0.0)
        seen_MPF = self.norm_patch(self.patch(patches_MPD.to(kind)))
        said_MLF = self.token(tokens_MLD.to(kind))
        ask_M1F = self.ask_F.to(said_MLF.dtype).expand(len(said_MLF), 1, -1)
        x, empty = torch.cat([ask_M1F, said_MLF], 1), pad(~mask_ML, (1, 0))
        for layer in self.layers:
            x = layer(x, seen_MPF, tgt_key_padding_mask=empty)
        no_M, yes_M = self.answer(self.norm(x[:, 0])).unbind(-1)
        return yes_M - no_M


@dataclass(frozen=True)
class Match:
    """``ImageFeatures.match`` of a fusion head: the network's form, applied with the parameters in ``images.learned``."""

    encoder: FusionEncoder

    def __call__(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """Log-odds ``[M]`` of M images with M texts, row by row."""
        if image.patches_BPD is None or text.tokens_NLD is None or text.mask_NL is None:
            raise ValueError("the fusion model reads patches and tokens; encode with needs={'patches', 'tokens'}")
        learned = {name.removeprefix(PREFIX): x for name, x in image.learned.items() if name.startswith(PREFIX)}
        return functional_call(self.encoder, learned, (image.patches_BPD, text.tokens_NLD, text.mask_NL))


class FusionHead(PlainHead):
    """The plain projections, and a :class:`FusionEncoder` on projected patches and tokens.

    ``score(images, texts) -> [B, N]`` is the log-odds, plus ``cosine`` times the cosine (BLIP adds them with weight 1, ALBEF and X-VLM
    do not). The towers and the contrastive loss start as the base model; the network starts from nothing.
    """

    kind = "fusion"
    gives = frozenset({"match"})
    score_needs = frozenset({"patches", "tokens"})

    def __init__(self, widths: Widths, width: int = 0, layers: int = 3, heads: int = 8, cosine: float = 0.0) -> None:
        super().__init__(widths)
        self.inner, self.cosine = width or widths.shared, cosine
        self.heads = split_heads(self.inner, heads)
        self.fusion = FusionEncoder(widths.shared, self.inner, layers, self.heads)

    def raw_needs(self, needs: frozenset[str]) -> frozenset[str]:
        """Matching is made here."""
        return super().raw_needs(needs) - self.gives

    def project_image(self, raw: RawImage, needs: frozenset[str] = NOTHING) -> ImageFeatures:
        """The plain features, with ``match`` and what it learns."""
        learned = {PREFIX + name: x for name, x in self.fusion.named_parameters()}
        return replace(super().project_image(raw, needs), learned=learned, match=Match(self.fusion))

    def score(self, image: ImageFeatures, text: TextFeatures) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """``[B, N]``, on the device of the features; a rectangle of pairs at a time."""
        device = image.pooled_BD.device
        learned = {PREFIX + name: x.to(device) for name, x in self.fusion.named_parameters()}
        image = ImageFeatures(image.pooled_BD, patches_BPD=image.patches_BPD, learned=learned)
        match = Match(self.fusion)

        def block(rows: slice, columns: slice) -> Tensor:
            row, column = torch.arange(rows.start, rows.stop), torch.arange(columns.start, columns.stop)
            pair = torch.cartesian_prod(row, column).view(-1, 2).to(device)
            here, there = image.select(pair[:, 0]), text.select(pair[:, 1])
            score = match(here, there)
            if self.cosine:
                score = score + self.cosine * cosine_similarity(here.pooled_BD, there.pooled_ND)
            return score.view(len(row), len(column))

        return joined(blocks(block, len(image.pooled_BD), len(text.pooled_ND), self._cost(image, text)))

    def _cost(self, image: ImageFeatures, text: TextFeatures) -> int:
        """Numbers in memory for each pair, about."""
        patches = 0 if image.patches_BPD is None else image.patches_BPD.shape[1]
        tokens = 0 if text.tokens_NLD is None else text.tokens_NLD.shape[1] + 1
        width = self.inner + self.widths.shared
        return 3 * patches * width + 8 * tokens * width + self.heads * tokens * (tokens + patches)

    def config(self) -> dict[str, Any]:
        """JSON-able; :func:`wholegrain.towers.heads.build_head` makes the same head from it."""
        inner = {"width": self.inner, "layers": len(self.fusion.layers), "heads": self.heads, "cosine": self.cosine}
        return {**super().config(), **inner}


def converted(widths: Widths, config: HeadConfig) -> FusionHead:
    """The head that ``config`` asks for."""
    for name, value, least in (
        ("layers", config.layers, 1),
        ("fusion_width", config.fusion_width, 0),
        ("attention_heads", config.attention_heads, 1),
    ):
        if value < least:
            raise UserError(f"head_settings.{name} is {value}; it must be {least} or more")
    return FusionHead(widths, config.fusion_width, config.layers, config.attention_heads, config.score_cosine)
