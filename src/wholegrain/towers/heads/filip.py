"""FILIP's head (Yao et al., ICLR 2022): nothing of its own; patches and tokens go through the plain projections."""

from __future__ import annotations

from torch import Tensor

from wholegrain.features import ImageFeatures, TextFeatures
from wholegrain.losses import filip
from wholegrain.towers.heads.base import Head


class FilipHead(Head):
    """The plain head; pairs are scored by the mean of both directions' best matches (:func:`wholegrain.losses.filip.score`)."""

    kind = "filip"
    read_out = "token_cosine"
    scores_pairs = True
    score_needs = frozenset({"patches", "tokens"})

    def score(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """Word by patch."""
        return filip.score(image, text)
