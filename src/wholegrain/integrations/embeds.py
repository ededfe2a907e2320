"""What programs around a model ask of it: vectors of pictures and of texts, and the label that fits best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from wholegrain.data.pictures import Picture


class Labelled(Protocol):
    """What pictures are taken for: ``labels`` ``[N]``, ``probabilities`` float32 ``[N, C]``."""

    @property
    def labels(self) -> Sequence[str | None]: ...
    @property
    def probabilities(self) -> np.ndarray: ...


class Embeds(Protocol):
    """A model as a function of pictures and texts, such as ``wholegrain.load`` gives."""

    @property
    def name(self) -> str:
        """By which it was loaded."""
        ...

    @property
    def width(self) -> int:
        """D, of pictures and texts."""
        ...

    def embed_images(self, pictures: Sequence[Picture]) -> np.ndarray:
        """Unit vectors, float32 ``[N, D]``; of branches the mean of theirs, which is shorter. The product with a unit text vector is the cosine."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32 ``[N, D]``."""
        ...

    def classify(self, pictures: Sequence[Picture], labels: Sequence[str], *, templates: Sequence[str]) -> Labelled:
        """The most probable label of each picture, and the probabilities of all."""
        ...
