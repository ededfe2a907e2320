"""Whether two models are the same: what both give for the same pictures and texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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


def clip_distances(model: Model, sample: Sample, image_BD: Tensor, text_ND: Tensor, clip: nn.Module) -> dict[str, float]:
    """How far apart a model and another library's are.

    Args:
        image_BD, text_ND: what the other makes of the sample.
        clip: the other; has ``logit_scale`` (its logarithm) and, where the model has a bias, ``logit_bias``.
    """
    image, text = features(model, sample)
    found = {"image features": distance(image_BD, image), "text features": distance(text_ND, text)}
    found["logit scale"] = distance(clip.get_parameter("logit_scale").detach().reshape(1), model.log_scale.detach().cpu()[None])
    if model.bias is not None:
        found["logit bias"] = distance(clip.get_parameter("logit_bias").detach().reshape(1), model.bias.detach().cpu()[None])
    return found


def distance(other: Tensor, wanted: Tensor) -> float:
    """The largest difference, as a share of the largest number; infinite where shapes differ or a number is not finite."""
    if other.shape != wanted.shape or not bool(torch.isfinite(other).all()):
        return float("inf")
    return ((other.double() - wanted.double()).abs().max() / wanted.double().abs().max().clamp(min=1e-12)).item()


def require_close(distances: Mapping[str, float], what: str) -> None:
    """Raises :class:`MachineError` if anything is further apart than :data:`TOLERANCE`."""
    for part, found in distances.items():
        if not found <= TOLERANCE:
            raise MachineError(
                f"{what} gives other {part} than the model ({found:.1e} apart), so nothing was written; please report it"
            )
