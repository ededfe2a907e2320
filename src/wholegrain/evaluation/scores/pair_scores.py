"""Scores of chosen (image, text) pairs, by name or by position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from wholegrain.evaluation.scores.similarity import Scorer
from wholegrain.features import ImageFeatures, TextFeatures


class PairScores:
    """Scores of pairs of a fixed set of images and texts.

    Args:
        keys, texts: distinct names of the images and the texts, row for row with their features.
        model: only looked at for a ``score`` method; see :func:`wholegrain.evaluation.scores.similarity.similarity`.
    """

    def __init__(
        self, keys: Sequence[str], image: ImageFeatures, texts: Sequence[str], text: TextFeatures, model: object = None
    ) -> None:
        self._images = {key: b for b, key in enumerate(keys)}
        self._texts = {text: n for n, text in enumerate(texts)}
        self.scorer = Scorer(image, text, model)

    def image(self, key: str) -> int:
        """The position of an image."""
        return self._images[key]

    def text(self, text: str) -> int:
        """The position of a text."""
        return self._texts[text]

    def __call__(self, image: np.ndarray, text: np.ndarray) -> np.ndarray:
        """float64 scores of the broadcast positions, in their shape."""
        image, text = np.broadcast_arrays(image, text)
        flat = self.scorer.pairs(torch.from_numpy(image.ravel().copy()), torch.from_numpy(text.ravel().copy()))
        return flat.double().numpy().reshape(image.shape)
