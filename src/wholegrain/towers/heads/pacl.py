"""PACL's head (Mukhoti et al., CVPR 2023): a residual perceptron on patches, and patches pooled with the text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from torch import Tensor, nn
from torch.nn.functional import gelu

from wholegrain.features import ImageFeatures, TextFeatures
from wholegrain.losses.text_conditioned import text_conditioned_scores
from wholegrain.towers.base import RawImage
from wholegrain.towers.heads.base import Head, HeadSettings, Widths


@dataclass(frozen=True)
class PaclSettings(HeadSettings):
    """Attributes:
        pool_temperature: of the softmax over patches, in cosines; 0 is 0.1.
    """

    pool_temperature: float = 0.0
    ranges: ClassVar[dict[str, tuple[float, float]]] = {"pool_temperature": (0, 1000)}

    def resolved(self, widths: Widths) -> Self:
        """0 is 0.1."""
        return replace(self, pool_temperature=self.pool_temperature or 0.1)


class PaclHead(Head):
    """Patches get ``W x + W2 gelu(W1 x)``; texts and the pooled image keep the plain projections.

    The paper's vision embedder is a residual two-layer perceptron; here W2 = 0 at the start, so it starts as the base model. Pairs
    are scored by pooling patches with the text: a softmax of cosines / ``pool_temperature``.
    """

    kind = "pacl"
    read_out = "pooled"
    Settings = PaclSettings
    saved: ClassVar[dict[str, str]] = {"pool_temperature": "temperature"}
    scores_pairs = True
    score_needs = frozenset({"patches"})
    settings: PaclSettings

    def __init__(self, widths: Widths, settings: PaclSettings | None = None) -> None:
        super().__init__(widths, settings)
        self.patch_in = nn.Linear(widths.image, widths.shared)
        self.patch_out = nn.Linear(widths.shared, widths.shared)
        nn.init.zeros_(self.patch_out.weight)
        nn.init.zeros_(self.patch_out.bias)

    def _patches(self, raw: RawImage, needs: frozenset[str]) -> tuple[Tensor | None, tuple[int, int] | None]:
        patches_BPD, grid = super()._patches(raw, needs)
        if patches_BPD is None:
            return None, None
        return patches_BPD + self.patch_out(gelu(self.patch_in(raw.patches_BPV))), grid

    def score(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """Cosines of texts with the patches that each has pooled."""
        if image.patches_BPD is None:
            raise ValueError("PACL scores patches; encode with needs={'patches'}")
        return text_conditioned_scores(image.patches_BPD, text.pooled_ND, self.settings.pool_temperature)
