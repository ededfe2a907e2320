"""Whether two models say the same: what both give for the same pictures and texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from wholegrain.errors import MachineError
from wholegrain.text.tokenizer import Tokens
from wholegrain.towers.model import Model

TOLERANCE = 1e-5
TEXTS = (
    "a photo of a cat",
    "two people ride bicycles past a red house, and a small dog runs after them",
    "dog",
    "The blue cup stands to the left of the book.",
)


@dataclass(frozen=True)
class Sample:
    """Pictures of noise and a few sentences, as a model takes them.

    Attributes:
        pixels_BCHW: uint8.
        tokens: rows of the model's own tokeniser.
    """

    pixels_BCHW: Tensor
    tokens: Tokens

    @classmethod
    def of(cls, model: Model, images: int = 3) -> Sample:
        """For a model."""
        size = model.preprocess.size
        noise = torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        return cls(noise, model.tokenizer.encode(TEXTS))


@torch.no_grad()
def features(model: Model, sample: Sample) -> tuple[Tensor, Tensor]:
    """The model's pooled vectors of the sample, ``[B, D]`` and ``[N, D]``."""
    tokens = sample.tokens
    image = model.encode_images(sample.pixels_BCHW.to(model.device))
    return image.pooled_BD.cpu(), model.encode_texts(tokens.tokens_NL, tokens.length_N).pooled_ND.cpu()


def distance(given: Tensor, wanted: Tensor) -> float:
    """The largest difference, as a share of the largest number; infinite where shapes differ or a number is not finite."""
    if given.shape != wanted.shape or not bool(torch.isfinite(given).all()):
        return float("inf")
    return ((given.double() - wanted.double()).abs().max() / wanted.double().abs().max().clamp(min=1e-12)).item()


def demand(distances: Mapping[str, float], what: str) -> None:
    """Raises :class:`MachineError` if anything is further apart than :data:`TOLERANCE`."""
    for part, found in distances.items():
        if not found <= TOLERANCE:
            raise MachineError(
                f"{what} gives other {part} than the model ({found:.1e} apart), so nothing was written; please report it"
            )
