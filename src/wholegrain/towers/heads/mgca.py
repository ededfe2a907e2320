"""MGCA's head (Wang et al., NeurIPS 2022): prototypes beside the plain projections; pairs are scored by the cosine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import nn
from torch.nn.functional import normalize

from wholegrain.features import ImageFeatures
from wholegrain.towers.base import NOTHING, RawImage
from wholegrain.towers.heads.base import Head, HeadSettings, Widths


@dataclass(frozen=True)
class MgcaSettings(HeadSettings):
    """Attributes:
        prototypes: K.
    """

    prototypes: int = 500
    ranges: ClassVar[dict[str, tuple[float, float]]] = {"prototypes": (1, 2**18)}


class MgcaHead(Head):
    """K prototypes beside the plain projections; random unit vectors at the start."""

    kind = "mgca"
    read_out = "token_cosine"
    Settings = MgcaSettings
    saved: ClassVar[dict[str, str]] = {"prototypes": "prototypes"}
    gives = frozenset({"prototypes"})
    settings: MgcaSettings

    def __init__(self, widths: Widths, settings: MgcaSettings | None = None) -> None:
        super().__init__(widths, settings)
        self.prototypes_KD = nn.Parameter(normalize(torch.randn(self.settings.prototypes, widths.shared), dim=-1))

    def raw_needs(self, needs: frozenset[str]) -> frozenset[str]:
        """Prototypes are no business of the towers."""
        return super().raw_needs(needs) - self.gives

    def project_image(self, raw: RawImage, needs: frozenset[str] = NOTHING) -> ImageFeatures:
        """The plain features, with the prototypes."""
        return replace(super().project_image(raw, needs), learned={"prototypes_KD": self.prototypes_KD})
