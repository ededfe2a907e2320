"""The head of whole and grain: the plain head, and how much the noun phrases count beside the whole, and how sharply they look."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from wholegrain.features import ImageFeatures, TextFeatures
from wholegrain.losses.whole_and_grain import TEMPERATURE, WEIGHT, score
from wholegrain.text.words.phrases import NounPhrases
from wholegrain.towers.base import NOTHING, RawImage
from wholegrain.towers.heads.base import Head, HeadSettings, Widths


@dataclass(frozen=True)
class GrainSettings(HeadSettings):
    """Attributes:
        weight: of the grain; where it is learned, at the start.
        temperature: of a phrase's attention to patches, in cosines; likewise.
        learned: whether the two are trained.
    """

    weight: float = 1.0
    temperature: float = 0.1
    learned: bool = True
    ranges: ClassVar[dict[str, tuple[float, float]]] = {"weight": WEIGHT, "temperature": TEMPERATURE}


class GrainHead(Head):
    """The plain head; pairs are scored by ``whole + weight * grain`` (:mod:`wholegrain.losses.whole_and_grain`).

    Weight and temperature are kept as logarithms, so that they are positive whatever a step does to them. Features are the plain head's,
    so a model that gets this head gives what it gave.
    """

    kind = "grain"
    Settings = GrainSettings
    saved: ClassVar[dict[str, str]] = {"weight": "weight", "temperature": "temperature", "learned": "learned"}
    begins: ClassVar[dict[str, str]] = {"weight": "log_weight_1", "temperature": "log_temperature_1"}
    gives = frozenset({"grain"})
    scores_pairs = True
    score_needs = frozenset({"patches", "phrases"})
    settings: GrainSettings
    log_weight_1: Tensor
    log_temperature_1: Tensor

    def __init__(self, widths: Widths, settings: GrainSettings | None = None) -> None:
        super().__init__(widths, settings)
        for name in ("weight", "temperature"):
            logarithm = torch.full((1,), math.log(getattr(self.settings, name)))
            if self.settings.learned:
                self.register_parameter(f"log_{name}_1", nn.Parameter(logarithm))
            else:
                self.register_buffer(f"log_{name}_1", logarithm)
        self.noun_phrases = NounPhrases()

    def phrases_of(self, texts: Sequence[str]) -> Sequence[Sequence[str]]:
        """The noun phrases of each text, by the built-in tagger."""
        return self.noun_phrases(texts)

    def raw_needs(self, needs: frozenset[str]) -> frozenset[str]:
        """Phrases are texts of their own, and weight and temperature no business of the towers."""
        return super().raw_needs(needs) - self.gives - {"phrases"}

    def project_image(self, raw: RawImage, needs: frozenset[str] = NOTHING) -> ImageFeatures:
        """The plain features; with ``grain`` in ``needs`` also what is learned of pairs."""
        image = super().project_image(raw, needs)
        learned = {"grain_log_weight_1": self.log_weight_1, "grain_log_temperature_1": self.log_temperature_1}
        return replace(image, learned=learned) if "grain" in needs else image

    def score(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """Whole and grain, on the device of the features."""
        logarithms = torch.stack([self.log_weight_1[0], self.log_temperature_1[0]]).detach().to(image.pooled_BD.device)
        return score(image, text, *logarithms.exp())

    @torch.no_grad()
    def keep_in_range(self) -> None:
        """Within the bounds of the loss, beyond which there is no gradient."""
        self.log_weight_1.clamp_(*map(math.log, WEIGHT))
        self.log_temperature_1.clamp_(*map(math.log, TEMPERATURE))
