"""The noun phrases of texts: which text mentions which, each distinct phrase once, gathered over processes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wholegrain.features import TextFeatures
from wholegrain.losses.core.contract import unit
from wholegrain.losses.core.gather import GlobalTexts, gather_rows, row_counts, world
from wholegrain.losses.core.typed_torch import groups


@dataclass(frozen=True)
class Phrases:
    """Q distinct phrases, and T mentions of one by a text.

    Attributes:
        vectors_QD: unit vectors, with gradients.
        text_T, phrase_T: int64, which text mentions which phrase.
        weight_T: the phrase's weight in that text; the weights of a text sum to 1.
        id_Q: int64, equal for equal phrases; ``None`` if nothing is known of that.
    """

    vectors_QD: Tensor
    text_T: Tensor
    phrase_T: Tensor
    weight_T: Tensor
    id_Q: Tensor | None = None

    def mean(self, cosine_BQ: Tensor, texts: int) -> Tensor:
        """``[B, texts]``: the weighted mean over each text's phrases, 0 for a text without any."""
        out_BN = cosine_BQ.new_zeros(len(cosine_BQ), texts)
        return out_BN.index_add(1, self.text_T, cosine_BQ[:, self.phrase_T] * self.weight_T)

    def mean_of_own(self, cosine_BQ: Tensor, owner_N: Tensor, first: int) -> Tensor:
        """``[N]``: :meth:`mean` of the texts ``first``, ``first + 1``, ... with their own images ``owner_N`` alone."""
        here = ((self.text_T >= first) & (self.text_T < first + len(owner_N))).nonzero().squeeze(1)
        text_M = self.text_T[here] - first
        cosine_M = cosine_BQ[owner_N[text_M], self.phrase_T[here]]
        return cosine_BQ.new_zeros(len(owner_N)).index_add(0, text_M, cosine_M * self.weight_T[here])


def phrases_of(text: TextFeatures, who: str) -> Phrases:
    """The phrases of these texts; those whose ids are equal are one, the first.

    Raises:
        ValueError: the features have no phrases.
    """
    if text.phrases_NKD is None or text.phrase_weight_NK is None:
        raise ValueError(f"{who} needs phrases_NKD and phrase_weight_NK; encode with needs={{'phrases'}}")
    text_T, place_T = text.phrase_weight_NK.nonzero(as_tuple=True)
    weight_T = text.phrase_weight_NK[text_T, place_T]
    phrase_T, chosen_Q, id_Q = torch.arange(len(text_T), device=text_T.device), slice(None), None
    if text.phrase_id_NK is not None:
        id_Q, phrase_T, chosen_Q = _distinct(text.phrase_id_NK[text_T, place_T])
    vectors_QD = unit(text.phrases_NKD[text_T[chosen_Q], place_T[chosen_Q]])
    return Phrases(vectors_QD, text_T, phrase_T, weight_T.to(vectors_QD.dtype), id_Q)


def gather_phrases(phrases: Phrases, everyone: GlobalTexts) -> Phrases:
    """The phrases of all processes, whose texts are ``everyone``'s; equal ones are one, which gets the gradients of all."""
    rank, size = world(everyone.group)
    if size == 1:
        return phrases
    group, device = everyone.group, phrases.text_T.device
    distinct, mentions = row_counts(len(phrases.vectors_QD), len(phrases.text_T), device=device, group=group)
    if not sum(mentions):  # so in every process
        return phrases
    pair_T2 = torch.stack([phrases.text_T + everyone.texts_before, phrases.phrase_T + sum(distinct[:rank])], 1)
    text_T, phrase_T = gather_rows(pair_T2, mentions, group).unbind(1)
    weight_T = gather_rows(phrases.weight_T, mentions, group)
    whole = Phrases(gather_rows(phrases.vectors_QD, distinct, group), text_T, phrase_T, weight_T)
    if phrases.id_Q is None:
        return whole
    id_Q, place_Q, chosen_Q = _distinct(gather_rows(phrases.id_Q, distinct, group))
    return replace(whole, vectors_QD=whole.vectors_QD[chosen_Q], phrase_T=place_Q[phrase_T], id_Q=id_Q)


def _distinct(id_T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The ids that there are, the place of each among them, and where each stands first."""
    id_Q, place_T, _ = groups(id_T)
    order_T = torch.arange(len(id_T), device=id_T.device)
    first_Q = torch.full_like(id_Q, len(id_T)).scatter_reduce(0, place_T, order_T, "amin")
    return id_Q, place_T, first_Q
