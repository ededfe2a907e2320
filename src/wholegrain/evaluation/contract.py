"""What evaluation asks of a model and of a data set: the library's own fit, and so does whatever has the same few methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from wholegrain.data.record import HardPositive, Negative, Record, Twin
from wholegrain.features import ImageFeatures, TextFeatures
from wholegrain.text.tokenizer import Tokens

Box = tuple[float, float, float, float]


class ImagePreprocess(Protocol):
    """uint8 pixels ``[H, W, 3]`` to what the model takes, one shape for all pictures; ``box``: of this part alone."""

    def image(self, pixels_HWC: np.ndarray, box: Box | None = None) -> Tensor | np.ndarray: ...


class TextEncoder(Protocol):
    """Texts to token rows."""

    def encode(self, texts: Sequence[str]) -> Tokens: ...


class EvaluatedModel(Protocol):
    """Two towers with their preprocessing and tokeniser.

    Looked at where they are there: ``score(images, texts) -> [B, N]`` of a model that scores pairs jointly and ``score_needs``, what it needs of
    the features; ``parameters``, ``training``, ``train`` and ``eval`` of a module; ``head.branches``; ``content_hash``.
    """

    @property
    def preprocess(self) -> ImagePreprocess: ...
    @property
    def tokenizer(self) -> TextEncoder: ...
    def encode_images(self, pixels_BCHW: Tensor, needs: frozenset[str] = ..., /) -> ImageFeatures: ...
    def encode_texts(self, tokens_NL: Tensor, length_N: Tensor, needs: frozenset[str] = ..., /) -> TextFeatures: ...


class PatchPreprocess(ImagePreprocess, Protocol):
    """Of square pictures with ``size`` pixels a side; ``visible_box`` is what is left of a picture of this width and height."""

    @property
    def size(self) -> int: ...
    def visible_box(self, width: int, height: int, /) -> Box: ...


class PatchModel(EvaluatedModel, Protocol):
    """A model whose patches are looked at."""

    @property
    def preprocess(self) -> PatchPreprocess: ...
    def encode_patches_as_images(self, pixels_BCHW: Tensor, /) -> ImageFeatures: ...


class PixelSource(Protocol):
    """Pictures by key: uint8 RGB ``[H, W, 3]``."""

    def pixels(self, key: str, /) -> np.ndarray: ...


class EvaluatedData(PixelSource, Protocol):
    """Records by key, in splits, with what sidecars say of them; see :class:`wholegrain.data.dataset.Dataset`."""

    @property
    def splits(self) -> tuple[str, ...]: ...
    def keys(self, split: str, /) -> list[str]: ...
    def record(self, key: str, /) -> Record: ...
    def records(self, split: str, /) -> Iterable[Record]: ...

    @property
    def negatives(self) -> Mapping[tuple[str, str], Sequence[Negative]]:
        """Key and caption id to negatives."""
        ...

    @property
    def twins(self) -> Sequence[Twin]: ...
    @property
    def hard_positives(self) -> Sequence[HardPositive]: ...
    @property
    def truths(self) -> Mapping[str, Sequence[str]]:
        """Caption id to further keys of which the caption is true."""
        ...
