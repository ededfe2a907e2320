"""How several models score the captions of one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from wholegrain.progress import nowhere
from wholegrain.workflows.embedder import Embedder


@dataclass(frozen=True)
class ScoreTable:
    """Scores of one picture with N captions by M models.

    Attributes:
        models, captions: their names and texts.
        scores_MN: float32, each model's own (:meth:`~wholegrain.workflows.embedder.Embedder.similarity`).
        shares_MN: the softmax of each row at the model's temperature: how it decides among these captions and no others.
        cut_MN: bool, captions of which a model does not read the end.
    """

    models: tuple[str, ...]
    captions: tuple[str, ...]
    scores_MN: np.ndarray
    shares_MN: np.ndarray
    cut_MN: np.ndarray

    @property
    def first_M(self) -> list[int | None]:
        """For each model the place of the caption that it puts first; none where several share the highest score."""
        alone_M = (self.scores_MN == self.scores_MN.max(1, keepdims=True)).sum(1) == 1
        return [n if alone else None for n, alone in zip(self.scores_MN.argmax(1).tolist(), alone_M, strict=True)]

    @property
    def sentence(self) -> str:
        """Who wins, in words."""
        if len(self.captions) == 1:
            said = ", ".join(f"{name} {number(self.scores_MN[m, 0])}" for m, name in enumerate(self.models))
            return f"One caption, {said}: a score alone says little, so type a second one to compare."
        first = self.first_M
        if len(set(first)) == 1 and first[0] is not None:
            who = {1: f"{self.models[0]} puts", 2: "Both models put"}.get(len(self.models), f"All {len(self.models)} models put")
            return f"{who} “{self.captions[first[0]]}” first."
        said = ("puts several first, with one score" if n is None else f"puts “{self.captions[n]}” first" for n in first)
        return "; ".join(f"{name} {it}" for name, it in zip(self.models, said, strict=True)) + "."


def similarities(models: Sequence[Embedder], pixels_HWC: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Scores ``[M, N]`` of a picture, uint8 RGB ``[H, W, 3]``, with texts."""
    return np.stack([model.similarity(pixels_HWC, texts, progress=nowhere)[0] for model in models])


def score_table(models: Sequence[Embedder], captions: Sequence[str], scores_MN: np.ndarray) -> ScoreTable:
    """The table of captions with these scores."""
    shares_MN = softmax(scores_MN * np.array([[model.scale] for model in models]), axis=1)
    cut_MN = np.array([model.cut(captions) for model in models])
    names = tuple(model.name for model in models)
    return ScoreTable(names, tuple(captions), scores_MN, shares_MN, cut_MN)


def number(score: float) -> str:
    """A score in three digits behind the point.

    Example:
        >>> number(-0.12345)
        '−0.123'
    """
    return f"{score:.3f}".replace("-", "−")
