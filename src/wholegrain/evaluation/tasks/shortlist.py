"""Retrieval with a score that is dear: the cosine makes a shortlist for every query, the joint score orders it.

As ALBEF and X-VLM are evaluated (released code: the first k = 128 or 256 of the cosine). Behind the shortlist the cosine's order stays (there
it is one tie at -100), so a true candidate that the cosine did not find ranks where the cosine has it, never better than k + 1.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from wholegrain.evaluation.scores.similarity import Scorer
from wholegrain.features import ImageFeatures, TextFeatures

Query = Literal["image", "text"]


class Shortlist(Scorer):
    """Scores in which each query's first ``size`` candidates by cosine are ordered by the joint score, above all others.

    Args:
        image, text, model: as in :class:`Scorer`; the model scores pairs jointly.
        size: of the shortlist, 1 or more.
        query: who asks: ``"image"`` has a shortlist of texts, ``"text"`` of images.
    """

    def __init__(self, image: ImageFeatures, text: TextFeatures, model: object, size: int, query: Query) -> None:
        super().__init__(image, text, model)
        self.size = size
        self.query: Query = query
        self.image_S, self.text_S = self._first()
        self.joint_S = self._joint_pairs(self.image_S, self.text_S)
        least = float(self.joint_S.min()) if len(self.joint_S) else 0.0
        self.below = least - 3.0  # a cosine is at most 1, so below + cosine is under every joint score
        self.bounds = torch.searchsorted(self.image_S, torch.arange(self.shape[0] + 1))

    def _first(self) -> tuple[Tensor, Tensor]:
        """The pairs of all shortlists, by image."""
        asks, offers = (self.index_BD, self.query_ND) if self.query == "image" else (self.query_ND, self.index_BD)
        size, step = min(self.size, len(offers)), max(1, (1 << 23) // max(len(offers), 1))
        first = [(part @ offers.T).topk(size, dim=1).indices for part in asks.split(step)]
        found = torch.cat(first) if first else torch.zeros(0, size, dtype=torch.int64)
        asking = torch.arange(len(asks))[:, None].expand_as(found)
        image, text = (asking, found) if self.query == "image" else (found, asking)
        order = (image.flatten() * max(self.shape[1], 1) + text.flatten()).argsort()
        return image.flatten()[order], text.flatten()[order]

    def rows(self, start: int, stop: int) -> Tensor:
        """Scores ``[stop - start, N]``; comparable within a query alone."""
        scores = self.index_BD[start:stop] @ self.query_ND.T + self.below
        here = slice(int(self.bounds[start]), int(self.bounds[stop]))
        scores[self.image_S[here] - start, self.text_S[here]] = self.joint_S[here]
        return scores

    def pairs(self, image_M: Tensor, text_M: Tensor, step: int = 1 << 14) -> Tensor:
        """Scores ``[M]``, the same as in :meth:`rows`."""
        wide = max(self.shape[1], 1)
        listed, wanted = self.image_S * wide + self.text_S, image_M * wide + text_M
        place = torch.searchsorted(listed, wanted).clamp_max(max(len(listed) - 1, 0))
        cosine = [
            (self.index_BD[i] * self.query_ND[n]).sum(1) for i, n in zip(image_M.split(step), text_M.split(step), strict=True)
        ]
        behind = torch.cat(cosine) + self.below if cosine else torch.zeros(0)
        if len(listed) == 0:
            return behind
        return torch.where(listed[place] == wanted, self.joint_S[place], behind)
