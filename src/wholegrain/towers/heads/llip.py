"""Llip's head (Lavoie et al., ICML 2024): mixture tokens of the image, which the text mixes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import nn

from wholegrain.features import ImageFeatures
from wholegrain.towers.base import NOTHING, ImageTower, RawImage
from wholegrain.towers.heads.attention import AttentionHead, AttentionSettings
from wholegrain.towers.heads.base import Head, Widths, required
from wholegrain.towers.heads.branches import BranchReadout, TokenSettings, prepare_tower, tokens_in


@dataclass(frozen=True)
class LlipSettings(TokenSettings, AttentionSettings):
    """Attributes:
        mixtures: K mixture tokens.

    The number of attention heads must divide the image tower's width; the temperature is of the softmax over mixtures.
    """

    mixtures: int = 64
    ranges: ClassVar[dict[str, tuple[float, float]]] = {**TokenSettings.ranges, **AttentionSettings.ranges, "mixtures": (1, 2**13)}

    def inner_width(self, widths: Widths) -> int:
        """A: the image tower's width."""
        return widths.image


class LlipHead(AttentionHead):
    """K mixture tokens of the image tower; the text mixes them, ``z = Wo concat_g( sum_k a_k Wv h_k )``.

    They are the class tokens of :mod:`wholegrain.towers.branch_tokens` (masked from one another there, free in the paper), or for other
    and frozen towers learned read-outs of the patches. Wv starts as the identity and Wo as the base's projection, so with equal
    tokens every mixture starts as the base's vector. The pooled image is the even mixture. The base's projection of images stays
    as it was, for patches alone.
    """

    kind = "llip"
    Settings = LlipSettings
    saved: ClassVar[dict[str, str]] = {**AttentionHead.saved, "mixtures": "mixtures", "source": "source"}
    settings: LlipSettings

    def __init__(self, widths: Widths, settings: LlipSettings | None = None) -> None:
        super().__init__(widths, settings)
        settings = self.settings
        readout = settings.source == "readout"
        self.readout = BranchReadout(widths.image, settings.mixtures, settings.noise) if readout else None
        nn.init.eye_(self.value.weight)
        self.image.requires_grad_(False)  # the loss never sees it, and DDP waits for every gradient

    @classmethod
    def from_settings(cls, widths: Widths, settings: LlipSettings, tower: ImageTower) -> Self:
        """A new head; mixture tokens are put into the image tower where they belong there."""
        return cls(widths, replace(settings, source=prepare_tower(tower, settings, settings.mixtures)))

    def settings_with(self, tower: ImageTower) -> LlipSettings:
        """With what the tower says of its tokens."""
        return replace(self.settings, **tokens_in(tower))

    def raw_needs(self, needs: frozenset[str]) -> frozenset[str]:
        """Read-outs need patches; tokens come with the tower."""
        return super().raw_needs(needs) | ({"patches"} if self.readout is not None else NOTHING)

    def project_image(self, raw: RawImage, needs: frozenset[str] = NOTHING) -> ImageFeatures:
        """The even mixture, and slots if ``needs`` holds them."""
        if self.readout is not None:
            classes_BKV = self.readout(raw.pooled_BV, required(raw.patches_BPV))
        else:
            classes_BKV = required(raw.classes_BHV)
        values_BKA = self.value(classes_BKV)
        image = ImageFeatures(self.mix(values_BKA.mean(1)), None, *self._patches(raw, needs))
        return replace(image, **self._slots(self.key(classes_BKV), values_BKA)) if "slots" in needs else image

    def start_from(self, other: Head) -> None:
        """Takes the projections; the output map starts as the image's."""
        super().start_from(other)
        with torch.no_grad():
            columns = self.image(torch.eye(self.widths.image, device=self.mix.weight.device))
            bias = self.image(torch.zeros(self.widths.image, device=self.mix.weight.device))
            self.mix.weight.copy_((columns - bias).T)
            self.mix.bias.copy_(bias)
