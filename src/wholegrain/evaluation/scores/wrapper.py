"""A model that is scored in another way: all but the score is the model's own."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from wholegrain.evaluation.contract import EvaluatedModel, ImagePreprocess, TextEncoder
from wholegrain.features import ImageFeatures, TextFeatures

Self = TypeVar("Self", bound="ModelWrapper")


class ModelWrapper:
    """For everything that a subclass does not say it is the model that it wraps.

    Args:
        model: a two-tower model.

    Attributes:
        own_needs: what the score needs and the model itself does not know of.
    """

    own_needs: frozenset[str] = frozenset()

    def __init__(self, model: EvaluatedModel) -> None:
        self.model = model

    def __getattr__(self, name: str) -> object:
        if name == "model":  # of an object that is being copied
            raise AttributeError(name)
        return getattr(self.__dict__["model"], name)

    @property
    def preprocess(self) -> ImagePreprocess:
        """The model's."""
        return self.model.preprocess

    @property
    def tokenizer(self) -> TextEncoder:
        """The model's."""
        return self.model.tokenizer

    def to(self: Self, device: torch.device | str) -> Self:
        """Moves the model, where it can be moved."""
        self.model = getattr(self.model, "to", lambda _: self.model)(device)
        return self

    def encode_images(self, pixels_BCHW: Tensor, needs: frozenset[str] = frozenset()) -> ImageFeatures:
        """As the model's: uint8 ``[B, 3, S, S]`` to features."""
        return self.model.encode_images(pixels_BCHW, needs - self.own_needs)

    def encode_texts(self, tokens_NL: Tensor, length_N: Tensor, needs: frozenset[str] = frozenset()) -> TextFeatures:
        """As the model's: int64 ``[N, L]`` and ``[N]`` to features."""
        return self.model.encode_texts(tokens_NL, length_N, needs - self.own_needs)
